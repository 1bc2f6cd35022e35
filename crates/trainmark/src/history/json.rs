//! The history as JSON, for other programs.

use super::History;

/// Indented, with a newline at its end.
pub fn render(history: &History) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(history)? + "\n")
}
