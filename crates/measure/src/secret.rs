//! Secrets stay out of the record.
//!
//! Of the environment only what the harness itself sets is recorded: the suite's own entries and the
//! protocol's. A trainer inherits the rest, since compilers, drivers and Python need it, and may print
//! it: the values of variables whose names speak of secrets are taken out of whatever is kept of its
//! output.

/// Parts of the names of variables that hold secrets.
const SIGNS: [&str; 10] = [
    "TOKEN",
    "SECRET",
    "PASSW",
    "API_KEY",
    "APIKEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "CREDENTIAL",
    "AUTH",
    "COOKIE",
];
/// Shorter values are words like `true`, which stand everywhere.
const SHORTEST: usize = 8;

/// Secrets of this process's environment.
#[derive(Clone, Default)]
pub struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// Those that the environment has now.
    pub fn of_environment() -> Secrets {
        let text = |text: std::ffi::OsString| text.into_string().ok();
        Secrets::among(
            std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))),
        )
    }

    fn among(variables: impl Iterator<Item = (String, String)>) -> Secrets {
        let secret = |name: &str| SIGNS.iter().any(|sign| name.to_ascii_uppercase().contains(sign));
        let mut secrets: Vec<(String, String)> = variables
            .filter(|(name, value)| {
                value.len() >= SHORTEST && secret(name) && !value.starts_with('/')
            })
            .collect();
        // A value that holds another one goes first.
        secrets.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        Secrets(secrets)
    }

    /// The text without them.
    pub fn hide(&self, text: &mut String) {
        for (name, value) in &self.0 {
            if text.contains(value.as_str()) {
                *text = text.replace(value.as_str(), &format!("[{name} of the environment]"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_that_sound_secret_are_hidden_and_others_are_not() {
        let variables = [
            ("HF_TOKEN", "hf_abcdefgh"),
            ("HF_TOKEN_LONG", "hf_abcdefghij"),
            ("aws_secret_access_key", "wJalrXUtnFEMI"),
            ("SSH_AUTH_SOCK", "/tmp/ssh-agent"),
            ("PATH", "/usr/bin:/bin"),
            ("USE_TOKEN", "true"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let secrets = Secrets::among(variables.into_iter());
        let mut text =
            "hf_abcdefghij hf_abcdefgh wJalrXUtnFEMI /tmp/ssh-agent /usr/bin:/bin true".into();
        secrets.hide(&mut text);
        let expected = "[HF_TOKEN_LONG of the environment] [HF_TOKEN of the environment] \
                        [aws_secret_access_key of the environment] /tmp/ssh-agent /usr/bin:/bin true";
        assert_eq!(text, expected);
    }
}
