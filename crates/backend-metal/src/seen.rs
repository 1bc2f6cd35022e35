//! Which device is used: what is known of it, and which of several is meant.

use nn::backend::{Options, TrainError};

/// A device as a person sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    /// An imitation in software.
    pub(crate) software: bool,
}

/// The place of the device that is meant: an index, part of a name in any case, or the first.
///
/// # Errors
/// [`TrainError::Option`] with what there is, if none of `names` is.
pub(crate) fn choose(names: &[String], options: &Options) -> Result<usize, TrainError> {
    let Some(wanted) = &options.device else { return Ok(0) };
    let index = wanted.parse().ok().filter(|&index: &usize| index < names.len());
    let lower = wanted.to_lowercase();
    let named = || names.iter().position(|name| name.to_lowercase().contains(&lower));
    index.or_else(named).ok_or_else(|| {
        let list: Vec<String> =
            names.iter().enumerate().map(|(index, name)| format!("{index}, {name}")).collect();
        let reason = format!("there are {}", list.join("; "));
        TrainError::Option { option: "device", value: wanted.clone(), reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_meant_by_index_or_by_part_of_its_name_in_any_case() {
        let names = ["Apple M2".to_owned(), "AMD Radeon Pro".to_owned()];
        let choice = |device: Option<&str>| {
            let device = device.map(str::to_owned);
            choose(&names, &Options { device, ..Options::default() })
        };
        assert_eq!(choice(None).unwrap(), 0);
        assert_eq!(choice(Some("1")).unwrap(), 1);
        assert_eq!(choice(Some("radeon")).unwrap(), 1);
        assert_eq!(choice(Some("m2")).unwrap(), 0);
        assert_eq!(
            choice(Some("nvidia")).unwrap_err().to_string(),
            "--device nvidia: there are 0, Apple M2; 1, AMD Radeon Pro"
        );
    }
}
