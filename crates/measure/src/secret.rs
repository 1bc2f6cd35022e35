//! Secrets stay out of the record.
//!
//! A record contains only the environment variables that the harness itself sets: the suite's own entries and the
//! protocol's. A trainer inherits the other variables, because compilers, drivers and Python need them, and may print
//! them. Values that look like secrets are taken out of whatever is kept of its output, as they are and in
//! base64. A value looks like one by its variable's name, or by its form: an address with a password, or a
//! long word that nobody would choose.

use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine as _};

/// Parts of the names of variables that hold secrets.
const SIGNS: [&str; 8] =
    ["TOKEN", "SECRET", "PASSW", "PASSPHRASE", "APIKEY", "CREDENTIAL", "AUTH", "COOKIE"];
/// The same as whole words between underscores: `OPENAI_KEY`, `GITHUB_PAT`.
const WORDS: [&str; 7] = ["KEY", "KEYS", "PAT", "PASS", "PWD", "DSN", "SIGNATURE"];
/// Values of such variables that are settings.
const SETTINGS: [&str; 10] =
    ["true", "false", "none", "null", "auto", "always", "never", "default", "enabled", "disabled"];
/// Shorter values stand everywhere.
const SHORTEST: usize = 4;
/// A word of letters and digits that is so long, and changes so often between small letters, capitals and
/// digits, was drawn by a machine: once in this many characters.
const RANDOM_LENGTH: usize = 16;
const RANDOM_RUN: usize = 4;
/// The least length of a secret in base64; a shorter text could be any word.
const SHORTEST_CODE: usize = 8;

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
        let mut secrets = Vec::new();
        for (name, value) in variables {
            let password = password(&value);
            if password.is_none() && !is_named_secret(&name, &value) && !is_random(&value) {
                continue;
            }
            for secret in [Some(value.as_str()), password].into_iter().flatten() {
                let forms = std::iter::once(secret.to_owned()).chain(codes(secret));
                secrets.extend(forms.map(|form| (name.clone(), form)));
            }
        }
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

fn is_named_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let named = SIGNS.iter().any(|sign| name.contains(sign))
        || name.split('_').any(|word| WORDS.contains(&word));
    let is_path = value.starts_with('/') || value.starts_with("./");
    let is_setting = SETTINGS.contains(&value.to_ascii_lowercase().as_str());
    named && value.len() >= SHORTEST && !is_path && !is_setting
}

/// The password of an address such as `postgres://user:password@host/name`.
fn password(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("://")?;
    let (user, _) = rest.split(['/', '?', ' ']).next()?.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password).filter(|it| it.len() >= SHORTEST)
}

fn is_random(value: &str) -> bool {
    let kind = |byte: u8| match byte {
        b'a'..=b'z' => 1,
        b'A'..=b'Z' => 2,
        _ => 3,
    };
    let words = value.as_bytes().split(|byte| !byte.is_ascii_alphanumeric());
    words.filter(|word| word.len() >= RANDOM_LENGTH).any(|word| {
        let changes = word.windows(2).filter(|pair| kind(pair[0]) != kind(pair[1])).count();
        changes * RANDOM_RUN >= word.len()
    })
}

/// All of a text that base64 shows whatever stands before and behind it, in both alphabets.
fn codes(secret: &str) -> impl Iterator<Item = String> {
    let code = |shift: usize| {
        let bytes = [&[0; 2][..shift], secret.as_bytes()].concat();
        let mut code = BASE64_STANDARD_NO_PAD.encode(&bytes);
        if !bytes.len().is_multiple_of(3) {
            code.pop(); // it depends on what comes behind
        }
        code.drain(..[0, 2, 3][shift]);
        code
    };
    let standard = (0..3).map(code).filter(|code| code.len() >= SHORTEST_CODE);
    standard.flat_map(|code| {
        let url = code.replace('+', "-").replace('/', "_");
        let differs = url != code;
        std::iter::once(code).chain(differs.then_some(url))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(variables: &[(&str, &str)], text: &str) -> String {
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let secrets = Secrets::among(variables);
        let mut text = text.to_owned();
        secrets.hide(&mut text);
        text
    }

    #[test]
    fn values_of_variables_that_sound_secret_are_hidden_and_others_are_not() {
        let variables = [
            ("HF_TOKEN", "hf_abcdefgh"),
            ("HF_TOKEN_LONG", "hf_abcdefghij"),
            ("aws_secret_access_key", "wJalrXUtnFEMI"),
            ("GITHUB_PAT", "p4ss"),
            ("OPENAI_KEY", "sk-short"),
            ("SSH_AUTH_SOCK", "/tmp/ssh-agent"),
            ("PATH", "/usr/bin:/bin"),
            ("USE_TOKEN", "true"),
            ("KEYBOARD", "qwerty"),
        ];
        let text =
            "hf_abcdefghij hf_abcdefgh wJalrXUtnFEMI p4ss sk-short /tmp/ssh-agent true qwerty";
        let expected = "[HF_TOKEN_LONG of the environment] [HF_TOKEN of the environment] \
                        [aws_secret_access_key of the environment] [GITHUB_PAT of the environment] \
                        [OPENAI_KEY of the environment] /tmp/ssh-agent true qwerty";
        assert_eq!(hidden(&variables, text), expected);
    }

    #[test]
    fn values_that_look_secret_are_hidden_whatever_their_name() {
        let url = "postgres://me:hunter2@db.example:5432/runs";
        assert_eq!(hidden(&[("DATABASE_URL", url)], url), "[DATABASE_URL of the environment]");
        let said = hidden(&[("DATABASE_URL", url)], "login me hunter2");
        assert_eq!(said, "login me [DATABASE_URL of the environment]");
        for random in ["xK9fQ2mZ7pL4vB8nRw3T", "0f3a9c1e5b7d2846af1c", "v1-9aF3kQ7zX1mC5vB2nR8t"] {
            assert_eq!(hidden(&[("ANYTHING", random)], random), "[ANYTHING of the environment]");
        }
        for plain in [
            "stable-x86_64-unknown-linux-gnu",
            "/opt/conda/envs/training-environment/bin",
            "https://example.org/a/very/long/path@2x",
            "en_US.UTF-8",
            "internationalisation",
            "20261129_005337",
        ] {
            assert_eq!(hidden(&[("ANYTHING", plain)], plain), plain);
        }
    }

    #[test]
    fn base64_is_seen_through_wherever_the_secret_stands_in_it() {
        let secret = "tok?en>~~value";
        let variables = [("API_TOKEN", secret)];
        for before in ["", "x", "user:", "Bearer "] {
            for behind in ["", "!", "\n\n"] {
                let code = BASE64_STANDARD_NO_PAD.encode(format!("{before}{secret}{behind}"));
                for code in [code.replace('+', "-").replace('/', "_"), code] {
                    let said = hidden(&variables, &format!("Authorization: Basic {code}"));
                    assert!(said.contains("[API_TOKEN of the environment]"), "{said}");
                }
            }
        }
    }
}
