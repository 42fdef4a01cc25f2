//! What a failed batch means for what is done next.

/// The class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Another transaction was in the way: again.
    Conflict,
    /// A unique key was taken by another transaction since the batch read: again, and it will be read. A key that
    /// stays taken is a data error.
    Duplicate,
    /// The connection is gone, or the server cannot work now. Nothing was committed.
    Disconnected,
    /// The batch took longer than a batch may, none of its statements longer than a statement may: there is too much in it. Nothing
    /// was committed; the connection has a statement that is not finished. Where it is the database that is away, the next
    /// connection tells.
    Late,
    /// COMMIT was sent, and no answer came.
    CommitUnknown,
    /// One of the commands cannot be written, or made the fold panic.
    Poison,
    /// The server, or the statement, is at fault: a column is not there yet, an internal error, a page that is damaged or cannot be
    /// read. Whether every batch meets it, or only one with these rows, the code does not tell: a batch of nothing does.
    Unfit,
}

impl Failure {
    /// The class of an error before COMMIT, or of a definite answer to it.
    pub fn of(error: &sqlx::Error) -> Self {
        use sqlx::Error;
        match error {
            Error::Database(error) => Self::of_code(error.code().as_deref().unwrap_or_default()),
            Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed => Self::Disconnected,
            _ => Self::Poison,
        }
    }

    /// The class of an error at COMMIT: only a refusal for the sake of the data or of another transaction is an answer. A server
    /// that fails in any other way may have stored it.
    pub fn at_commit(error: &sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
        let is_answer = (code.starts_with("23") || code.starts_with("40")) && code != "40003";
        if is_answer { Self::of(error) } else { Self::CommitUnknown }
    }

    /// As metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Duplicate => "duplicate",
            Self::Disconnected => "disconnected",
            Self::Late => "late",
            Self::CommitUnknown => "commit_unknown",
            Self::Poison => "poison",
            Self::Unfit => "unfit",
        }
    }

    fn of_code(code: &str) -> Self {
        match code {
            // Lock timeout, statement timeout.
            "55P03" | "57014" => Self::Conflict,
            "23505" => Self::Duplicate,
            // Idle in transaction for too long; a standby.
            "25P03" | "25006" => Self::Disconnected,
            // Connection exceptions, no more resources, operator intervention.
            _ if ["08", "53", "57"].iter().any(|class| code.starts_with(class)) => Self::Disconnected,
            // The command's data: out of range, against a rule, too large.
            _ if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => Self::Poison,
            // Deadlock, serialization failure.
            _ if code.starts_with("40") => Self::Conflict,
            _ => Self::Unfit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_by_the_server_settles_a_commit() {
        let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(Failure::of(&lost), Failure::Disconnected);
        assert_eq!(Failure::at_commit(&lost), Failure::CommitUnknown);
        assert_eq!(Failure::of(&sqlx::Error::RowNotFound), Failure::Poison);
        assert_eq!(Failure::at_commit(&sqlx::Error::RowNotFound), Failure::CommitUnknown);
    }

    #[test]
    fn codes_have_their_class() {
        for (code, class) in [
            ("40P01", Failure::Conflict),
            ("55P03", Failure::Conflict),
            ("23505", Failure::Duplicate),
            ("57P01", Failure::Disconnected),
            ("25P03", Failure::Disconnected),
            ("53100", Failure::Disconnected),
            ("23514", Failure::Poison),
            ("22021", Failure::Poison),
            ("23001", Failure::Poison),
            ("54000", Failure::Poison),
            ("40002", Failure::Conflict),
            ("42703", Failure::Unfit),
            ("42501", Failure::Unfit),
            ("XX000", Failure::Unfit),
            ("XX001", Failure::Unfit),
            ("58030", Failure::Unfit),
            ("", Failure::Unfit),
        ] {
            assert_eq!(Failure::of_code(code), class, "{code}");
        }
    }
}
