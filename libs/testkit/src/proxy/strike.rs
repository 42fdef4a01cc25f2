//! Which faults there are, and what they fit. Pure.

use std::time::Duration;

/// A fault that hits single pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// Postgres gets the COMMIT; the connection is reset before the answer is back.
    CommitReply,
    /// The connection is reset, and Postgres never gets the COMMIT.
    Commit,
    /// The connection is reset after so many bytes of a request.
    RequestAt(usize),
    /// The connection is reset after so many bytes of an answer.
    ReplyAt(usize),
    /// The client's half is closed after a request, as by a client that wants its answer and then nothing more.
    HalfClose,
    /// The server gets what comes from here on twice, over two connections; the second answers are thrown away.
    Twice,
    /// The end of an answer is garbage.
    Garbage,
    /// An HTTP answer is this one instead, and the connection ends.
    Instead(&'static str),
    /// An HTTP answer is [`FLOOD`] bytes of blanks that call themselves JSON.
    Flood,
}

/// More than anybody should read of an answer.
pub(super) const FLOOD: usize = 64 << 20;

impl Strike {
    /// Whether this is a piece for it.
    pub(super) fn fits(self, is_request: bool, piece: &[u8]) -> bool {
        match self {
            Self::CommitReply | Self::Commit => {
                is_request && piece.windows(7).any(|window| window == b"COMMIT\0")
            }
            Self::RequestAt(bytes) => is_request && piece.len() > bytes,
            Self::ReplyAt(bytes) => !is_request && piece.len() > bytes,
            Self::HalfClose | Self::Twice => is_request && is_call(piece),
            Self::Garbage => !is_request,
            Self::Instead(_) | Self::Flood => !is_request && piece.starts_with(b"HTTP/1.1 "),
        }
    }
}

/// A piece that begins an HTTP request which changes something.
fn is_call(piece: &[u8]) -> bool {
    piece.starts_with(b"POST ") || piece.starts_with(b"PUT ")
}

/// What every piece goes through, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// Each piece waits this long.
    pub latency: Duration,
    /// And up to this much longer.
    pub jitter: Duration,
    /// Pieces are passed on in slices of at most so many bytes, one write each; 0 is whole.
    pub slice: usize,
    /// Bytes a second; 0 is no limit.
    pub bandwidth: u32,
    /// Of a thousand pieces, so many reset their connection.
    pub resets_per_mille: u64,
}

impl Weather {
    /// Whether this throw of the dice resets a connection.
    pub(super) const fn resets(&self, throw: u64) -> bool {
        throw % 1_000 < self.resets_per_mille
    }

    /// How long a piece of so many bytes waits.
    pub(super) fn wait(&self, throw: u64, bytes: usize) -> Duration {
        let jitter = u64::try_from(self.jitter.as_micros()).unwrap_or(u64::MAX);
        let jitter = if jitter == 0 { 0 } else { (throw >> 16) % jitter };
        let sending = match u64::from(self.bandwidth) {
            0 => 0,
            rate => u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000) / rate,
        };
        self.latency + Duration::from_micros(jitter.saturating_add(sending))
    }
}

/// Dice whose throws depend on the seed alone, whatever the version of any library (splitmix64).
#[derive(Debug, Clone, Default)]
pub struct Dice(u64);

impl Dice {
    /// Dice of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.throw() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_fit_what_they_are_for() {
        let commit = b"Q\0\0\0\x0bCOMMIT\0";
        for (strike, is_request, piece, fits) in [
            (Strike::CommitReply, true, &commit[..], true),
            (Strike::CommitReply, false, &commit[..], false),
            (Strike::Commit, true, b"Q\0\0\0\nBEGIN\0", false),
            (Strike::RequestAt(3), true, b"abc", false),
            (Strike::RequestAt(2), true, b"abc", true),
            (Strike::ReplyAt(2), true, b"abc", false),
            (Strike::Twice, true, b"POST /x HTTP/1.1", true),
            (Strike::Twice, true, b"GET /x HTTP/1.1", false),
            (Strike::Garbage, false, b"HTTP/1.1 200", true),
            (Strike::Flood, false, b"HTTP/1.1 200", true),
            (Strike::Flood, false, b"the rest of an answer", false),
            (Strike::Instead(""), true, b"HTTP/1.1 200", false),
        ] {
            assert_eq!(strike.fits(is_request, piece), fits, "{strike:?} {is_request}");
        }
    }

    #[test]
    fn the_same_seed_throws_the_same() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            [(); 8].map(|()| dice.throw())
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
        assert!((0..1_000).all(|seed| Dice::new(seed).below(10) < 10));
    }

    #[test]
    fn weather_waits_and_resets_as_it_says() {
        let slow = Weather { bandwidth: 1_000, latency: Duration::from_millis(5), ..Weather::default() };
        assert_eq!(slow.wait(0, 100), Duration::from_millis(105));
        assert_eq!(Weather::default().wait(u64::MAX, 100), Duration::ZERO);
        let bad = Weather { resets_per_mille: 100, ..Weather::default() };
        let mut dice = Dice::new(1);
        let resets = (0..10_000).filter(|_| bad.resets(dice.throw())).count();
        assert!((800..1_200).contains(&resets), "{resets}");
        assert!(!Weather::default().resets(0));
    }
}
