//! Names of result files: `{prefix}_{backend}_h{hidden}_{timestamp}.json`.

use std::path::Path;

/// The parts of a result file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    stem: String,
}

impl FileName {
    /// For example `classic_cpu_h512_20240315_143022`. The parts come from a suite file and may
    /// hold anything, `tags` too (what tells a suite's rows apart): what does not belong in a file name becomes `-`.
    pub fn new(prefix: &str, backend: &str, tags: &[String], timestamp: &str) -> FileName {
        let mut parts = vec![prefix.to_owned(), backend.to_owned()];
        parts.extend_from_slice(tags);
        parts.push(timestamp.to_owned());
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let stem = parts.join("_").chars().map(|c| if safe(c) { c } else { '-' }).collect();
        FileName { stem }
    }

    /// The first attempt's name is the specification's; each further one, for when that is taken,
    /// has its number appended.
    pub fn attempt(&self, number: usize) -> String {
        match number {
            0 | 1 => format!("{}.json", self.stem),
            number => format!("{}_{number}.json", self.stem),
        }
    }

    /// The first name that nothing in the folder has.
    pub fn first_free(&self, folder: &Path) -> String {
        let mut attempts = (1..).map(|number| self.attempt(number));
        let free = |name: &String| folder.join(name).symlink_metadata().is_err();
        attempts.find(free).unwrap_or_else(|| unreachable!("the numbers do not end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_specifications() {
        let name = FileName::new("classic", "cpu", &["h512".to_owned()], "20240315_143022");
        assert_eq!(name.attempt(1), "classic_cpu_h512_20240315_143022.json");
        assert_eq!(name.attempt(2), "classic_cpu_h512_20240315_143022_2.json");
    }

    #[test]
    fn hostile_parts_stay_in_the_directory() {
        let name = FileName::new("../../etc/x", "c|pu\n", &["ffa/b".to_owned()], "t");
        assert_eq!(name.attempt(1), "------etc-x_c-pu-_ffa-b_t.json");
    }
}
