//! Sizes, times and shares as people write them on a command line: one parser each, the same meaning for
//! every option.

use bytesize::ByteSize;
use std::time::Duration;

const YEAR: Duration = Duration::from_secs(365 * 86400);

/// `90`, `90s`, `1.5m`, `1h 30m`; at least a millisecond, at most a year.
///
/// # Errors
/// One line on how to write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.trim().parse::<f64>().ok().map(Duration::try_from_secs_f64);
    let time = match seconds {
        Some(seconds) => seconds.map_err(|error| error.to_string()),
        None => text
            .parse::<jiff::SignedDuration>()
            .map_err(|_| "give seconds, or a number with s, m or h".to_owned())
            .and_then(|time| Duration::try_from(time).map_err(|error| error.to_string())),
    }?;
    match (Duration::from_millis(1)..=YEAR).contains(&time) {
        true => Ok(time),
        false => Err("give a time between 0.001s and a year".to_owned()),
    }
}

/// `512M`, `8G`, `8GiB`: M and G are powers of ten, MiB and GiB powers of two.
///
/// # Errors
/// One line on how to write it.
pub fn size(text: &str) -> Result<u64, String> {
    let size = text.trim().parse::<ByteSize>();
    let bytes = size.map_err(|_| "give bytes, or a number with M, G, T, MiB, GiB or TiB")?.as_u64();
    match (1_000_000..=1_000_000_000_000_000).contains(&bytes) {
        true => Ok(bytes),
        false => Err("give a size between 1M and 1000T".to_owned()),
    }
}

/// `2%` or `2` as 0.02.
///
/// # Errors
/// If it is no percentage, or may be a fraction.
pub fn percent(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let percent = number.parse::<f64>().map_err(|_| "give a percentage, for example 3%")?;
    if !(percent > 0.0 && percent < 100.0) {
        return Err("give a percentage between 0 and 100".to_owned());
    }
    if percent < 1.0 && !text.ends_with('%') {
        let (share, percent) = (100.0 * percent, percent);
        return Err(format!("may mean {percent}% or {share}%; write it with %"));
    }
    Ok(percent / 100.0)
}

/// A number that is neither infinite nor none.
///
/// # Errors
/// If it is no such number.
pub fn number(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().map_err(|_| "give a number")?;
    if number.is_finite() { Ok(number) } else { Err("give a finite number".to_owned()) }
}

/// Logical cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus(pub Vec<usize>);

/// `0-3,8`.
///
/// # Errors
/// If it is no list of cores.
pub fn cpus(text: &str) -> Result<Cpus, String> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number =
            |text: &str| text.trim().parse::<usize>().map_err(|_| "give cores, for example 0-3,8");
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > 1 << 16 {
            return Err(format!("{part} is not a range of cores"));
        }
        list.extend(first..=last);
    }
    list.sort_unstable();
    list.dedup();
    Ok(Cpus(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1h 30m", 5400), ("1h30m", 5400)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "0", "-1", "nan", "ten", "5 weeks", "1e99h", "-5m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_finite() {
        assert_eq!((number("1.945"), number(" -2e3")), (Ok(1.945), Ok(-2000.0)));
        for wrong in ["", "nan", "-inf", "1e400", "two"] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [
            ("2G", 2_000_000_000),
            ("2GB", 2_000_000_000),
            ("8GiB", 8 << 30),
            ("1.5MiB", 1_572_864),
            ("3000000", 3_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "2X", "-1G", "nanG", "10k", "1e99T", "G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_fraction_where_a_percentage_is_meant_is_a_question() {
        assert_eq!(percent("2"), Ok(0.02));
        assert_eq!(percent("0.5%"), Ok(0.005));
        assert_eq!(percent("0.03"), Err("may mean 0.03% or 3%; write it with %".to_owned()));
        for wrong in ["0", "100", "-1", "x", "", "%"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cores_are_a_list_of_ranges() {
        assert_eq!(cpus("0-2,8,1"), Ok(Cpus(vec![0, 1, 2, 8])));
        for wrong in ["", "3-1", "a", "0-", "0-99999999"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }
}
