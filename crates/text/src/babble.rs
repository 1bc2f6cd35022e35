//! The embedded text: a play without sense, drawn by a grammar.
//!
//! A benchmark must run where there is no data and no network. Speakers take turns; each says some
//! sentences about invented words, made of syllables, in a grammar with what a small model can learn at
//! several distances: spelling, frequent and rare words, the order of the parts of speech, agreement of
//! subject and verb in number, lines of a certain length, and that whoever is spoken to by name speaks
//! next.
//!
//! The same bytes on every platform: every choice is made by a 32-bit word of ChaCha8 (stream 0, key
//! [`SEED`] in its first eight bytes) and integer arithmetic. [`SHA256`] says which bytes. It is drawn at
//! run time, in some 10 ms, and stored nowhere.

use crate::{Error, Text};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::path::{Path, PathBuf};

/// The word that chooses it, and its name.
pub const NAME: &str = "babble";
/// Its file, where it is written to one.
pub const FILE: &str = "babble.txt";
/// Characters.
pub const LENGTH: usize = 1_115_394; // as many as tiny Shakespeare's, so that equal steps are equal work
/// The seed of the generator.
pub const SEED: u64 = 1616;
/// The digest of the text, in hexadecimal.
pub use crate::tokens::BABBLE_SHA256 as SHA256;

const ONSETS: [&str; 24] = [
    "b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "br", "dr", "fl",
    "gr", "pl", "sh", "st", "th", "tr",
];
const VOWELS: [&str; 10] = ["a", "e", "i", "o", "u", "a", "e", "o", "ea", "ou"];
const CODAS: [&str; 12] = ["", "", "", "l", "m", "n", "nd", "r", "rk", "s", "st", "t"];
const PRONOUNS: [[&str; 4]; 2] = [["he", "she", "it", "one"], ["we", "they", "you", "all"]];
const DETERMINERS: [[&str; 4]; 2] =
    [["the", "a", "this", "every"], ["the", "some", "these", "our"]];
const LINKS: [&str; 6] = ["and", "but", "for", "while", "because", "if"];
const PREPOSITIONS: [&str; 8] = ["of", "in", "with", "under", "from", "to", "by", "upon"];
const ENDS: [&str; 8] = [".", ".", ".", ".", "!", "?", ";", "."];
const SPEAKERS: usize = 24;
/// Where a line is broken at the next word.
const WIDTH: usize = 44;

/// The text, ready to be learnt.
pub fn text() -> Text {
    match Text::from_bytes(NAME, generate().as_bytes()) {
        Ok(text) => text,
        Err(reason) => unreachable!("{reason}"), // LENGTH is long enough
    }
}

/// Writes it into a folder, for trainers that read files; returns the file. One that is there already and
/// right stays.
///
/// # Errors
/// If the folder cannot be made or the file not be written.
pub fn store(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join(FILE);
    let content = generate();
    if std::fs::read(&path).is_ok_and(|found| found == content.as_bytes()) {
        return Ok(path);
    }
    std::fs::create_dir_all(folder).map_err(|cause| Error::io(folder, "make it", cause))?;
    files::replace(&path, content.as_bytes()).map_err(|it| Error::io(&path, "write it", it))?;
    Ok(path)
}

/// The characters.
pub fn generate() -> String {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&SEED.to_le_bytes());
    let mut play = Play::new(Choice(ChaCha8Rng::from_seed(key)));
    let mut speaker = 0;
    while play.out.len() < LENGTH {
        speaker = play.speech(speaker);
    }
    play.out.truncate(LENGTH); // ASCII
    play.out
}

/// The generator as choices.
struct Choice(ChaCha8Rng);

impl Choice {
    /// One of `0..choices`, all equally likely.
    fn below(&mut self, choices: usize) -> usize {
        ((u64::from(self.0.next_u32()) * choices as u64) >> 32) as usize
    }

    /// One of `0..choices`, the first ones more often: `choices u^2`.
    fn early(&mut self, choices: usize) -> usize {
        let word = u64::from(self.0.next_u32());
        ((((word * word) >> 32) * choices as u64) >> 32) as usize
    }

    /// With so many chances in a hundred.
    fn percent(&mut self, chances: usize) -> bool {
        self.below(100) < chances
    }

    fn of<'list>(&mut self, list: &[&'list str]) -> &'list str {
        list[self.below(list.len())]
    }

    /// An invented word.
    fn word(&mut self, most_syllables: usize) -> String {
        let mut word = String::new();
        for _ in 0..=self.below(most_syllables) {
            word.push_str(self.of(&ONSETS));
            word.push_str(self.of(&VOWELS));
            word.push_str(self.of(&CODAS));
        }
        word
    }

    fn words(&mut self, count: usize, most_syllables: usize) -> Vec<String> {
        (0..count).map(|_| self.word(most_syllables)).collect()
    }
}

/// The text so far, and its words.
struct Play {
    choice: Choice,
    speakers: Vec<String>,
    nouns: Vec<String>,
    verbs: Vec<String>,
    adjectives: Vec<String>,
    out: String,
    /// Characters of the line so far.
    column: usize,
}

impl Play {
    fn new(mut choice: Choice) -> Play {
        let speakers = choice.words(SPEAKERS, 2).iter().map(|word| capital(word)).collect();
        let (nouns, verbs) = (choice.words(500, 3), choice.words(250, 2));
        let adjectives = choice.words(200, 2);
        Play { choice, speakers, nouns, verbs, adjectives, out: String::new(), column: 0 }
    }

    /// Writes the speech of one speaker; returns the next speaker.
    fn speech(&mut self, speaker: usize) -> usize {
        self.out.push_str(&self.speakers[speaker]);
        self.out.push_str(":\n");
        let mut next = self.choice.below(SPEAKERS);
        for sentence in 0..=self.choice.early(6) {
            let mut words = self.clause();
            if self.choice.percent(30) {
                let link = self.choice.of(&LINKS);
                let last = words.len() - 1; // a clause has words
                words[last].push(',');
                words.push(link.to_owned());
                words.extend(self.clause());
            }
            if sentence == 0 && self.choice.percent(60) {
                words.insert(0, format!("{},", self.speakers[next]));
            } else if sentence == 0 {
                next = self.choice.below(SPEAKERS);
            }
            words[0] = capital(&words[0]);
            let end = self.choice.of(&ENDS);
            let last = words.len() - 1;
            words[last].push_str(end);
            for word in &words {
                self.write(word);
            }
        }
        self.out.push_str("\n\n");
        self.column = 0;
        next
    }

    /// Subject, verb, mostly an object, sometimes more.
    fn clause(&mut self) -> Vec<String> {
        let plural = self.choice.below(2);
        let mut words = match self.choice.percent(35) {
            true => vec![self.choice.of(&PRONOUNS[plural]).to_owned()],
            false => self.noun_phrase(plural),
        };
        let verb = &self.verbs[self.choice.early(self.verbs.len())];
        let singular = plural == 0;
        match self.choice.below(4) {
            0 => words
                .extend([if singular { "has" } else { "have" }.to_owned(), format!("{verb}ed")]),
            1 => {
                words.extend([if singular { "is" } else { "are" }.to_owned(), format!("{verb}ing")])
            }
            _ => words.push(if singular { format!("{verb}s") } else { verb.clone() }),
        }
        if self.choice.percent(70) {
            let number = self.choice.below(2);
            words.extend(self.noun_phrase(number));
        }
        if self.choice.percent(30) {
            words.push(self.choice.of(&PREPOSITIONS).to_owned());
            let number = self.choice.below(2);
            words.extend(self.noun_phrase(number));
        }
        words
    }

    fn noun_phrase(&mut self, plural: usize) -> Vec<String> {
        let mut words = vec![self.choice.of(&DETERMINERS[plural]).to_owned()];
        if self.choice.percent(40) {
            words.push(self.adjectives[self.choice.early(self.adjectives.len())].clone());
        }
        let noun = &self.nouns[self.choice.early(self.nouns.len())];
        words.push(if plural == 1 { format!("{noun}s") } else { noun.clone() });
        words
    }

    /// A word of a speech, on a new line where the old one is full.
    fn write(&mut self, word: &str) {
        if self.column > 0 {
            let full = self.column + word.len() > WIDTH;
            self.out.push(if full { '\n' } else { ' ' });
            self.column = if full { 0 } else { self.column + 1 };
        }
        self.out.push_str(word);
        self.column += word.len();
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_same_bytes_everywhere() {
        let text = text();
        assert_eq!(text.sha256, SHA256);
        assert_eq!(text.name, NAME);
        assert_eq!(text.train.len() + text.validation.len(), LENGTH);
        assert_eq!(text.vocabulary, 47);
    }

    #[test]
    fn it_is_written_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = store(folder.path()).unwrap();
        assert_eq!(store(folder.path()).unwrap(), path);
        let found = crate::Source::locate(Some(folder.path())).unwrap().load().unwrap();
        assert_eq!(found.name, NAME);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
