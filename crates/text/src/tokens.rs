//! A text as tokens, and the bytes that the known texts have.

use sha2::{Digest, Sha256};

/// SHA-256 of tiny Shakespeare (Karpathy, char-rnn, 2015): 1,115,394 bytes, 65 different ones.
pub const SHAKESPEARE_SHA256: &str =
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed";

/// SHA-256 of the text that [`crate::babble`] draws.
pub const BABBLE_SHA256: &str = "72a8f357781d4da091217387c9d0b347cb7138163aba3e292dca94b470fb4a7f";

/// The names that only the right bytes may bear.
const KNOWN: [(&str, &str); 2] = [("shakespeare", SHAKESPEARE_SHA256), ("babble", BABBLE_SHA256)];

/// A text as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// `shakespeare` and `babble` are only the texts of those digests.
    pub name: String,
    /// The digest of the bytes, in hexadecimal.
    pub sha256: String,
    /// Different tokens; all are below.
    pub vocabulary: usize,
    pub train: Vec<u16>,
    pub validation: Vec<u16>,
}

impl Text {
    /// The tokens of a text. `name` is what it is called unless its bytes are known.
    ///
    /// # Errors
    /// The reason, if there are too few characters to split.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Text, String> {
        let sha256 = hex(&Sha256::digest(bytes));
        let name = match KNOWN.iter().find(|(_, known)| *known == sha256) {
            Some((known, _)) => (*known).to_owned(),
            None if KNOWN.iter().any(|(known, _)| *known == name) => format!("not-{name}"),
            None => name.to_owned(),
        };
        let mut present = [false; 256];
        for &byte in bytes {
            present[usize::from(byte)] = true;
        }
        let mut token = [0; 256]; // of each byte that is present
        let mut vocabulary = 0;
        for (token, _) in token.iter_mut().zip(present).filter(|(_, present)| *present) {
            *token = vocabulary;
            vocabulary += 1;
        }
        let tokens = bytes.iter().map(|&byte| token[usize::from(byte)]).collect();
        Text::split(name, sha256, vocabulary.into(), tokens)
    }

    /// Tokens, of which the first nine tenths are for training.
    pub(crate) fn split(
        name: String,
        sha256: String,
        vocabulary: usize,
        mut tokens: Vec<u16>,
    ) -> Result<Text, String> {
        const FEWEST: usize = 20; // two to validate with: an input and a target
        if tokens.len() < FEWEST || u32::try_from(tokens.len()).is_err() {
            return Err(format!("{} characters; a text has {FEWEST} to 2^32", tokens.len()));
        }
        let validation = tokens.split_off(tokens.len() / 10 * 9 + tokens.len() % 10 * 9 / 10);
        Ok(Text { name, sha256, vocabulary, train: tokens, validation })
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_places_among_the_sorted_bytes_and_nine_tenths_are_trained_on() {
        let text = Text::from_bytes("mine", b"cabcabcabcabcabcabcabc\n").unwrap();
        assert_eq!((text.vocabulary, text.name.as_str()), (4, "mine"));
        assert_eq!(text.train[..4], [3, 1, 2, 3]);
        assert_eq!((text.train.len(), text.validation.len()), (20, 3)); // 0.9 * 23 = 20.7
        assert_eq!(text.validation.last(), Some(&0));
    }

    #[test]
    fn a_known_name_belongs_to_known_bytes() {
        let text = Text::from_bytes("shakespeare", &[b'a'; 30]).unwrap();
        assert_eq!(text.name, "not-shakespeare");
        assert!(Text::from_bytes("short", b"abc").unwrap_err().starts_with("3 characters"));
    }
}
