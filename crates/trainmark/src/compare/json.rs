//! The comparison as JSON, for other programs.

use super::Comparison;

/// One object, pretty-printed, with a newline.
pub fn render(comparison: &Comparison) -> String {
    // Nothing in it can fail: no maps with keys other than text.
    serde_json::to_string_pretty(comparison).unwrap_or_default() + "\n"
}
