//! What Trainmark keeps for a user between runs, where the system keeps such things.

use std::path::PathBuf;

/// A folder of that name in `$XDG_STATE_HOME/trainmark`, else `~/.local/state/trainmark`; `None`
/// without a home. It need not exist.
pub fn folder(name: &str) -> Option<PathBuf> {
    let state =
        std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state =
        state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
    Some(state?.join("trainmark").join(name))
}
