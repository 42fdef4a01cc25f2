//! Public wire types of a tender (`/points`, `/store-credits`, `/digital-rewards`).
