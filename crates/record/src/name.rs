//! Names that people type: finds known names in any case, and suggests the nearest one for others.

use indexmap::IndexSet;
use std::cmp::Ordering;

/// Names that a message lists.
const LISTED: usize = 12;
/// Below this likeness another name is no help, unless it is one slip away.
const NEAR: f64 = 0.7;
/// The same of files: a folder holds many names that nobody means.
const NEAR_FILE: f64 = 0.85;

/// The known name that is meant: itself, else the only one that differs in nothing but its case.
pub fn meant<'a>(wanted: &str, known: &[&'a str]) -> Option<&'a str> {
    let same = |name: &&&str| name.to_lowercase() == wanted.to_lowercase();
    known.iter().find(|name| **name == wanted).or_else(|| known.iter().find(same)).copied()
}

/// The message for an unknown name: `--model cn: there is no such model; did you mean cnn? There
/// are cnn, mlp`. `listing` is the command that lists them, if there is one.
pub fn unknown(place: &str, kind: &str, wanted: &str, known: &[&str], listing: &str) -> String {
    let names: IndexSet<&str> = known.iter().copied().collect();
    let names: Vec<&str> = names.into_iter().collect();
    let likeness = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &wanted.to_lowercase());
    let near = names.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let slip = |name: &str| strsim::osa_distance(&name.to_lowercase(), &wanted.to_lowercase()) < 2;
    let near = near.filter(|name| likeness(name) > NEAR || slip(name));
    let separator = if place.is_empty() { "" } else { " " };
    let mut text = format!("{place}{separator}{wanted}: there is no such {kind}");
    if let Some(near) = near {
        text += &format!("; did you mean {near}?");
    }
    let more = if names.len() > LISTED { ", ..." } else { "" };
    let start = if near.is_some() { " There are" } else { "; there are" };
    match names.len() {
        0 => text += &format!("; there is no {kind} at all"),
        1 if near.is_some() => {}
        1 => text += &format!("; there is only {}", names[0]),
        _ => text += &format!("{start} {}{more}", names[..names.len().min(LISTED)].join(", ")),
    }
    if !listing.is_empty() {
        let separator = if text.ends_with('?') { " " } else { "; " };
        text += &format!("{separator}`{listing}` lists them");
    }
    text
}

/// The order of names for people: `run 2` comes before `run 13`.
pub fn by_number(one: &str, other: &str) -> Ordering {
    fn parts(name: &str) -> impl Iterator<Item = (bool, usize, &[u8])> {
        let parts = name.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
        parts.map(|part| match part[0].is_ascii_digit() {
            true => {
                let zeros = part.iter().take_while(|digit| **digit == b'0').count();
                (false, part.len() - zeros, &part[zeros..])
            }
            false => (true, 0, part),
        })
    }
    parts(one).cmp(parts(other)).then_with(|| one.cmp(other))
}

/// The nearest file or folder beside a path that is not there: `; did you mean benchmarks?`, or nothing.
pub fn file_nearby(path: &std::path::Path) -> String {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let beside = std::fs::read_dir(folder.unwrap_or(".".as_ref())).into_iter().flatten().flatten();
    let names = beside.filter_map(|entry| entry.file_name().into_string().ok());
    let wanted = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let likeness = |name: &String| strsim::jaro_winkler(&name.to_lowercase(), &wanted);
    let names = names.filter(|name| !name.starts_with('.') && likeness(name) > NEAR_FILE);
    let near = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    near.map_or(String::new(), |name| {
        format!("; did you mean {}?", path.with_file_name(name).display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_people_are_in_the_order_of_their_numbers() {
        let mut names = ["bad 13", "b2", "bad", "bad 2", "b10", "b02", "10", "a"];
        names.sort_by(|one, other| by_number(one, other));
        assert_eq!(names, ["10", "a", "b02", "b2", "b10", "bad", "bad 2", "bad 13"]);
    }

    #[test]
    fn a_name_is_known_whatever_its_case() {
        assert_eq!(meant("pytorch", &["JAX", "PyTorch"]), Some("PyTorch"));
        assert_eq!(meant("a", &["A", "a"]), Some("a"));
        assert_eq!(meant("torch", &["PyTorch"]), None);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_and_with_the_command_that_lists_all() {
        assert_eq!(
            unknown("--model", "model", "cn", &["mlp", "cnn", "mlp"], "trainmark run --list"),
            "--model cn: there is no such model; did you mean cnn? There are mlp, cnn; `trainmark run \
             --list` lists them"
        );
        assert_eq!(
            unknown("--backend", "backend", "tpu", &["cpu", "cuda"], ""),
            "--backend tpu: there is no such backend; did you mean cpu? There are cpu, cuda"
        );
        assert_eq!(
            unknown("", "trainer", "PyTroch", &["PyTorch"], "trainmark setup --list"),
            "PyTroch: there is no such trainer; did you mean PyTorch? `trainmark setup --list` lists them"
        );
        let far =
            unknown("--metric", "figure", "nonsense", &["training_time_seconds", "step_ms"], "");
        let expected =
            "--metric nonsense: there is no such figure; there are training_time_seconds, step_ms";
        assert_eq!(far, expected);
        assert!(unknown("", "model", "mpl", &["cnn", "mlp"], "").contains("did you mean mlp?"));
        assert_eq!(
            unknown("", "baseline", "x", &[], ""),
            "x: there is no such baseline; there is no baseline at all"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_answered_with_the_one_beside_it() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("benchmarks"), "").unwrap();
        let said = file_nearby(&place.path().join("benchmark"));
        assert!(said.starts_with("; did you mean ") && said.ends_with("benchmarks?"), "{said}");
        assert_eq!(file_nearby(&place.path().join("quite else")), "");
    }
}
