//! What things are called: the same in rows, in metrics, in logs and in the API.

use saga::{Reason, SagaId};
use uuid::Uuid;

#[test]
fn a_saga_is_called_by_its_id() {
    let id = Uuid::from_u128(7);
    assert_eq!(SagaId(id).to_string(), id.to_string());
}

#[test]
fn a_reason_is_called_what_it_is_written_as() {
    for reason in Reason::ALL {
        assert_eq!(serde_json::json!(reason), reason.as_str());
        let read: Reason = serde_json::from_value(reason.as_str().into()).expect("a reason");
        assert_eq!(read, reason);
    }
}
