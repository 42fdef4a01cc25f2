//! Variables from the process's environment, or else from `.run/env`.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

/// Where `script/server` leaves what it started.
const FILE: &str = ".run/env";

/// Variables by name.
#[derive(Debug, Default)]
pub struct Environment {
    file: BTreeMap<String, String>,
}

impl Environment {
    /// Reads `.run/env` of the current directory, if there is one.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn load() -> anyhow::Result<Self> {
        match std::fs::read_to_string(FILE) {
            Ok(text) => Ok(Self { file: parse(&text) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {FILE}")),
        }
    }

    /// The variable, if it is set and not empty.
    pub fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().or_else(|| self.file.get(name).cloned()).filter(|value| !value.is_empty())
    }

    /// The variable.
    ///
    /// # Errors
    /// When it is not set, saying how it is.
    pub fn require(&self, name: &str) -> anyhow::Result<String> {
        self.get(name).with_context(|| {
            format!(
                "{name} is not set, and {FILE} in this directory does not have it (script/server writes it)"
            )
        })
    }

    /// Refuses whatever is made for development.
    ///
    /// # Errors
    /// Unless `APP_ENV=development`.
    pub fn require_development(&self, what: &str) -> anyhow::Result<()> {
        ensure!(
            self.get("APP_ENV").as_deref() == Some("development"),
            "{what} is for development only: APP_ENV is not `development`"
        );
        Ok(())
    }

    /// The variables `prefix_2suffix`, `prefix_3suffix` and so on, up to the first that is not set.
    pub fn numbered(&self, prefix: &str, suffix: &str) -> Vec<String> {
        (2..).map_while(|number| self.get(&format!("{prefix}_{number}{suffix}"))).collect()
    }
}

/// Lines that a shell can source: `NAME=value`, perhaps exported, perhaps quoted.
fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), unquote(value.trim()).to_owned()))
        .collect()
}

fn unquote(value: &str) -> &str {
    for quote in ['\'', '"'] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

#[cfg(test)]
impl Environment {
    /// Variables as a file would have them.
    pub fn of(text: &str) -> Self {
        Self { file: parse(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_can_source_is_read() {
        let read = parse("# a comment\nA=1\nexport B='two words'\n\nC=\"x=y\"\nnonsense\n D=\n");
        let expected = [("A", "1"), ("B", "two words"), ("C", "x=y"), ("D", "")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }
}
