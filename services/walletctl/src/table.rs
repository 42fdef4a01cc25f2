//! Lists as tables.

use serde_json::Value;

/// `rows` under the columns `names`, which are also their fields.
pub fn render(names: &[&str], rows: &[Value]) -> String {
    let mut lines: Vec<Vec<String>> = vec![names.iter().map(|name| name.to_uppercase()).collect()];
    lines.extend(rows.iter().map(|row| names.iter().map(|name| cell(&row[name])).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let render = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(render).collect::<Vec<_>>().join("\n")
}

/// A value as it is shown.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}

/// A terminal obeys what is between the lines of a name: control characters are shown, not sent.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned_and_controls_are_shown() {
        let rows = [json!({"id": "a\u{1b}[2J", "n": 7}), json!({"id": "b", "n": null})];
        assert_eq!(render(&["id", "n"], &rows), "ID          N\na\\u{1b}[2J  7\nb           -");
    }
}
