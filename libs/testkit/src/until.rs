//! Waiting for what a test has brought about: a condition and a limit, in the place of a pause that is long enough most of the time.

use std::{fmt::Display, panic::Location, time::Duration};

use tokio::time::{Instant, sleep, timeout};

/// Shortest and longest pause between two looks. In between a pause is a quarter of what was waited so far.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(25));

/// What a look tells: what was waited for, or what is there instead.
pub trait Look {
    /// What was waited for.
    type Found;

    /// What was waited for.
    ///
    /// # Errors
    /// What is there instead, for the message of a wait that was in vain.
    fn found(self) -> Result<Self::Found, String>;
}

impl Look for bool {
    type Found = ();

    fn found(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "it does not hold".to_owned())
    }
}

impl<T> Look for Option<T> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "there is none".to_owned())
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|instead| instead.to_string())
    }
}

/// Looks until it finds what is waited for, and gives it: `true`, `Some` or `Ok`.
///
/// # Panics
/// When it is not there within `limit`, with what the last look has seen in its place.
#[track_caller]
pub fn until<L: Look>(limit: Duration, mut look: impl AsyncFnMut() -> L) -> impl Future<Output = L::Found> {
    let place = Location::caller();
    async move {
        let begun = Instant::now();
        let mut seen = "the first look has not ended".to_owned();
        let looking = async {
            loop {
                match look().await.found() {
                    Ok(found) => return found,
                    Err(instead) => seen = instead,
                }
                sleep((begun.elapsed() / 4).clamp(PAUSES.0, PAUSES.1)).await;
            }
        };
        let found = timeout(limit, looking).await;
        found.unwrap_or_else(|_| panic!("{place}: not within {limit:?}: {seen}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_wait_ends_with_what_it_waited_for() {
        let mut looks = 0;
        let found = until(SOON, async || {
            looks += 1;
            (looks == 3).then_some("there")
        });
        assert_eq!(found.await, "there");
        assert_eq!(looks, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "not within 50ms: two of three")]
    async fn a_wait_in_vain_tells_what_there_was_instead() {
        until(SOON, async || Err::<(), _>("two of three")).await;
    }

    #[tokio::test]
    #[should_panic(expected = "the first look has not ended")]
    async fn a_look_that_hangs_is_limited_as_well() {
        until(SOON, async || std::future::pending::<bool>().await).await;
    }
}
