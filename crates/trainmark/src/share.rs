//! What of the machine a row gets: so many devices and cores, and an environment that shows it no other device.
//!
//! Devices are NVIDIA's by their UUIDs, as NVML tells them, or whatever `--devices` names. Of those that are free a row
//! gets those that are linked best, and of equal ones the first; of those that `--devices` names simply the first.

use anyhow::{Result, anyhow, bail, ensure};
use measure::surroundings::{Gpu, LINKS};
use record::number::count;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The devices that whoever started the harness left to it.
pub const INHERITED: &str = "CUDA_VISIBLE_DEVICES";

/// What a row asks for, by its suite; nothing is all that the run may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Needs {
    /// Of a cluster, that train it together.
    pub nodes: usize,
    /// On each node, as are the cores.
    pub devices: Option<usize>,
    /// Logical ones.
    pub cores: Option<usize>,
}

/// What a row got.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Share {
    /// UUIDs, or numbers where no driver tells any; empty if it did not ask.
    pub devices: Vec<String>,
    /// `None` if it did not ask.
    pub cores: Option<Vec<usize>>,
    /// Whether it may use a device all the same: it did not ask, and does not train on the CPU.
    pub any_device: bool,
    /// Shows the trainer its devices alone.
    pub environment: BTreeMap<String, String>,
    /// The rows that run at the same time.
    pub beside: Vec<String>,
}

impl Share {
    /// Whether two rows do not measure each other, as far as what they asked for is concerned.
    pub fn stands_beside(&self, other: &Share) -> bool {
        let both = |has: fn(&Share) -> bool| has(self) && has(other);
        let own = both(|it| !it.devices.is_empty()) || both(|it| it.cores.is_some());
        own && both(|it| !it.any_device)
    }
}

/// What a run may give to its rows.
#[derive(Clone, Debug)]
pub struct Pool {
    devices: Result<Vec<String>, String>,
    /// Whether rows that ask for no number of devices may see these only.
    named: bool,
    /// How they reach each other, as far as that is known.
    links: Links,
    cores: Vec<usize>,
}

/// By a device's UUID and another's.
type Links = BTreeMap<String, BTreeMap<String, String>>;

/// So many of some devices, in their order: those whose longest way to each other is the shortest, then whose ways are
/// the shortest together, then the first. Each set begins with one device and takes in the next nearest one.
fn nearest(free: &[String], wanted: usize, links: &Links) -> Vec<String> {
    let way = |one: &String, other: &String| {
        let told = links.get(one).and_then(|it| it.get(other));
        told.and_then(|told| LINKS.iter().position(|link| link == told)).unwrap_or(LINKS.len())
    };
    let of = |first: usize| {
        let (mut set, mut length) = (vec![first], (0, 0));
        while set.len() < wanted {
            let reach = |at: usize| {
                let ways = set.iter().map(|&other| way(&free[at], &free[other]));
                ways.fold((0, 0), |(most, sum), way| (most.max(way), sum + way))
            };
            let others = (0..free.len()).filter(|at| !set.contains(at));
            let (added, next) = others.map(|at| (reach(at), at)).min()?;
            length = (length.0.max(added.0), length.1 + added.1);
            set.push(next);
        }
        set.sort_unstable();
        Some((length, set))
    };
    let best = (0..free.len()).filter_map(of).min();
    best.map_or(free.to_vec(), |(_, set)| set.iter().map(|&at| free[at].clone()).collect())
}

impl Pool {
    /// `named` are those of `--devices`, `inherited` those of [`INHERITED`]; `gpus` is why NVML knows none.
    ///
    /// # Errors
    /// If one is named that NVML does not know, or twice.
    pub fn new(
        gpus: Result<&[Gpu], String>,
        named: Option<&[String]>,
        inherited: Option<String>,
        cores: Vec<usize>,
    ) -> Result<Pool> {
        let known = gpus.clone().unwrap_or_default();
        let uuid = |gpu: &Gpu| gpu.uuid.clone().unwrap_or_else(|| gpu.index.to_string());
        let numbered =
            |name: &str| known.iter().find(|gpu| gpu.index.to_string() == name).map(uuid);
        let devices = if let Some(named) = named {
            let one = |name: &String| {
                ensure!(
                    is_name(name),
                    "--devices {name}: is neither a number, as nvidia-smi counts, nor a UUID (GPU-..., MIG-...)"
                );
                // CUDA takes the beginning of a UUID too.
                let begins = |it: &String| name.starts_with("GPU-") && it.starts_with(&**name);
                let uuids: Vec<String> = known.iter().map(uuid).collect();
                let mut meant = uuids.iter().filter(|uuid| begins(uuid));
                match (numbered(name), meant.next(), meant.next()) {
                    (Some(uuid), ..) => Ok(uuid),
                    (_, Some(uuid), None) => Ok(uuid.clone()),
                    _ if known.is_empty() => Ok(name.clone()),
                    _ if name.starts_with("GPU-") => {
                        bail!("--devices {name}: is no UUID here; there are {}", uuids.join(", "))
                    }
                    _ if name.parse::<u32>().is_ok() => {
                        let there = count(known.len(), "device");
                        bail!("--devices {name}: NVML knows {there}, counted from 0")
                    }
                    _ => Ok(name.clone()),
                }
            };
            let all: Vec<String> = named.iter().map(one).collect::<Result<_>>()?;
            // By its number and by its UUID.
            if let Some(at) = (1..all.len()).find(|&at| all[..at].contains(&all[at])) {
                bail!("--devices: {} is there twice", named[at]);
            }
            Ok(all)
        } else if let Some(inherited) = inherited {
            // CUDA counts the fastest device first, NVML by its place: of equal ones the numbers are the same.
            let equal = known.windows(2).all(|two| two[0].name == two[1].name);
            let one =
                |name: &str| numbered(name).filter(|_| equal).unwrap_or_else(|| name.to_owned());
            // CUDA ends the list at what is no device: -1 alone is a usual way to leave none.
            let names = inherited.split(',').map(str::trim);
            Ok(names.take_while(|it| !it.is_empty() && !it.starts_with('-')).map(one).collect())
        } else {
            gpus.map(|gpus| gpus.iter().map(uuid).collect())
        };
        let links = known.iter().filter_map(|gpu| Some((gpu.uuid.clone()?, gpu.links.clone())));
        Ok(Pool { devices, named: named.is_some(), links: links.collect(), cores })
    }

    /// The variables that show a program the devices that were named, if any were.
    pub fn shown(&self) -> BTreeMap<String, String> {
        match (self.named, &self.devices) {
            (true, Ok(all)) => visible(all),
            _ => BTreeMap::new(),
        }
    }

    /// What a row gets beside those that have theirs.
    ///
    /// # Errors
    /// If there is not as much; both numbers are told.
    pub fn share(&self, needs: Needs, taken: &[Share]) -> Result<Share> {
        let mut share = Share::default();
        if let Some(wanted) = needs.devices {
            let asks = format!("it asks for {}", count(wanted, "device"));
            let all = self.devices.as_ref().map_err(|why| {
                anyhow!(
                    "{asks}, and none is known; --devices 0,1 names those that there are ({why})"
                )
            })?;
            let is_free = |it: &&String| !taken.iter().any(|other| other.devices.contains(it));
            let mut free: Vec<String> = all.iter().filter(is_free).cloned().collect();
            ensure!(free.len() >= wanted, "{asks}, and there {}", are(all.len()));
            if !self.named {
                free = nearest(&free, wanted, &self.links);
            }
            free.truncate(wanted);
            share.devices = free;
            share.environment = visible(&share.devices);
        } else {
            share.environment = self.shown();
        }
        if let Some(wanted) = needs.cores {
            let others = || taken.iter().filter_map(|it| it.cores.as_ref()).flatten();
            let free = self.cores.iter().filter(|core| !others().any(|other| other == *core));
            let cores: Vec<usize> = free.take(wanted).copied().collect();
            let (asks, there) = (count(wanted, "core"), are(self.cores.len()));
            ensure!(cores.len() == wanted, "it asks for {asks}, and there {there}");
            share.cores = Some(cores);
        }
        Ok(share)
    }
}

/// Whether a driver may know a device by that name: its number, one of a part of it (Level Zero's `0.1`), or its UUID.
fn is_name(name: &str) -> bool {
    let number = !name.is_empty() && name.split('.').all(|part| part.parse::<u32>().is_ok());
    number || ["GPU-", "MIG-"].iter().any(|head| name.starts_with(head))
}

fn are(number: usize) -> String {
    if number == 1 { "is 1".to_owned() } else { format!("are {number}") }
}

/// The variables that show a program these devices alone. A UUID of NVML's means something to CUDA only. AMD's
/// HIP and Intel's Level Zero (never run with it) take numbers; `ROCR_VISIBLE_DEVICES` is left alone, since HIP
/// counts again what that leaves.
fn visible(devices: &[String]) -> BTreeMap<String, String> {
    let list = devices.join(",");
    let numbers = devices.iter().all(|device| device.parse::<u32>().is_ok());
    let all = [INHERITED, "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"];
    let names = if numbers { &all[..] } else { &all[..1] };
    names.iter().map(|&name| (name.to_owned(), list.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(number: u32) -> Vec<Gpu> {
        let gpu = |index| Gpu { index, uuid: Some(format!("GPU-{index}")), ..Gpu::default() };
        (0..number).map(gpu).collect()
    }

    fn pool(named: Option<&[&str]>, inherited: Option<&str>) -> Result<Pool> {
        let named: Option<Vec<String>> =
            named.map(|it| it.iter().map(|&it| it.to_owned()).collect());
        Pool::new(Ok(&gpus(4)), named.as_deref(), inherited.map(str::to_owned), vec![0, 1, 2])
    }

    fn refused(named: &[&str]) -> String {
        pool(Some(named), None).unwrap_err().to_string()
    }

    fn lacks(pool: &Pool, needs: Needs, taken: &[Share]) -> String {
        pool.share(needs, taken).unwrap_err().to_string()
    }

    fn needs(devices: usize) -> Needs {
        Needs { devices: Some(devices), ..Needs::default() }
    }

    #[test]
    fn a_row_gets_the_first_devices_that_are_free_by_their_uuids() {
        let pool = pool(None, None).unwrap();
        let first = pool.share(needs(2), &[]).unwrap();
        assert_eq!(first.devices, ["GPU-0", "GPU-1"]);
        assert_eq!(first.environment, BTreeMap::from([(INHERITED.into(), "GPU-0,GPU-1".into())]));
        let second = pool.share(needs(2), std::slice::from_ref(&first)).unwrap();
        assert_eq!(second.devices, ["GPU-2", "GPU-3"]);
        assert!(first.stands_beside(&second));
        assert!(pool.share(needs(1), &[first.clone(), second]).is_err());
        assert!(!first.stands_beside(&pool.share(Needs::default(), &[]).unwrap()));
        assert_eq!(lacks(&pool, needs(8), &[]), "it asks for 8 devices, and there are 4");
    }

    #[test]
    fn a_row_gets_the_devices_that_are_linked_best_and_of_equal_ones_the_first() {
        // Pairs of NVLink, 0 and 3, 1 and 2; two to a NUMA node: 0 and 1, 2 and 3.
        let link = |one: usize, other: usize| match (one + other, one / 2 == other / 2) {
            (3, _) => "NVLink",
            (_, true) => "PCIe within a NUMA node",
            _ => "PCIe between NUMA nodes",
        };
        let names: Vec<String> = (0..4).map(|at| format!("GPU-{at}")).collect();
        let of = |one: usize| {
            let others = (0..4).filter(|other| *other != one);
            others.map(|other| (names[other].clone(), link(one, other).to_owned())).collect()
        };
        let links: Links = (0..4).map(|one| (names[one].clone(), of(one))).collect();
        let chosen = |free: &[usize], wanted| {
            let free: Vec<String> = free.iter().map(|&at| names[at].clone()).collect();
            nearest(&free, wanted, &links).join(" ").replace("GPU-", "")
        };
        assert_eq!(chosen(&[0, 1, 2, 3], 1), "0");
        assert_eq!(chosen(&[0, 1, 2, 3], 2), "0 3");
        assert_eq!(chosen(&[0, 1, 2], 2), "1 2");
        assert_eq!(chosen(&[0, 1], 2), "0 1");
        assert_eq!(chosen(&[1, 2, 3], 3), "1 2 3");
        assert_eq!(nearest(&names, 2, &Links::new()), names[..2], "nobody tells the links");
        let gpus: Vec<Gpu> = gpus(4)
            .into_iter()
            .zip(links.values())
            .map(|(gpu, links)| Gpu { links: links.clone(), ..gpu })
            .collect();
        let two = |named: Option<&[String]>| {
            Pool::new(Ok(&gpus), named, None, vec![0])
                .unwrap()
                .share(needs(2), &[])
                .unwrap()
                .devices
        };
        assert_eq!(two(None), ["GPU-0", "GPU-3"]);
        assert_eq!(two(Some(&names)), ["GPU-0", "GPU-1"], "whoever names them has chosen");
    }

    #[test]
    fn a_row_that_may_use_any_device_stands_beside_no_other() {
        let on_cores = |core| Share { cores: Some(vec![core]), ..Share::default() };
        assert!(on_cores(0).stands_beside(&on_cores(1)));
        let gpu = Share { any_device: true, ..on_cores(1) };
        assert!(!on_cores(0).stands_beside(&gpu) && !gpu.stands_beside(&on_cores(0)));
    }

    #[test]
    fn devices_are_those_named_or_those_that_were_left_to_the_harness() {
        let named = pool(Some(&["2", "0"]), Some("1")).unwrap();
        assert_eq!(named.share(needs(1), &[]).unwrap().devices, ["GPU-2"]);
        let others = named.share(Needs::default(), &[]).unwrap();
        assert_eq!((others.devices.len(), &*others.environment[INHERITED]), (0, "GPU-2,GPU-0"));
        let left = pool(None, Some("1,3")).unwrap();
        assert_eq!(left.share(needs(2), &[]).unwrap().devices, ["GPU-1", "GPU-3"]);
        assert!(left.share(Needs::default(), &[]).unwrap().environment.is_empty());
        assert!(lacks(&left, needs(3), &[]).ends_with("and there are 2"));
        assert_eq!(refused(&["9"]), "--devices 9: NVML knows 4 devices, counted from 0");
        assert_eq!(refused(&["1", "1"]), "--devices: 1 is there twice");
        assert_eq!(refused(&["1", "GPU-1"]), "--devices: GPU-1 is there twice");
        let nonsense = refused(&["x", "y"]);
        assert!(nonsense.starts_with("--devices x: is neither a number"), "{nonsense}");
        let none = pool(None, Some("-1")).unwrap();
        assert_eq!(lacks(&none, needs(1), &[]), "it asks for 1 device, and there are 0");
    }

    #[test]
    fn a_uuid_that_this_machine_does_not_have_is_refused_with_those_that_it_has() {
        let unknown = "--devices GPU-9: is no UUID here; there are GPU-0, GPU-1, GPU-2, GPU-3";
        assert_eq!(refused(&["GPU-1", "GPU-9"]), unknown);
        assert!(refused(&["GPU-"]).starts_with("--devices GPU-: is no UUID here"), "of several");
        let uuid = |uuid: &str| Gpu { uuid: Some(uuid.to_owned()), ..Gpu::default() };
        let named = |name: &str| {
            Pool::new(
                Ok(&[uuid("GPU-7a-1"), uuid("GPU-7b-2")]),
                Some(&[name.into()]),
                None,
                vec![0],
            )
        };
        let share = named("GPU-7b").unwrap().share(needs(1), &[]).unwrap();
        assert_eq!(share.devices, ["GPU-7b-2"], "CUDA takes a beginning too");
        assert!(named("GPU-7").is_err());
        // A part of a device, which NVML does not list with the devices.
        assert_eq!(named("MIG-3").unwrap().share(needs(1), &[]).unwrap().devices, ["MIG-3"]);
    }

    #[test]
    fn without_a_driver_numbers_are_taken_as_they_are_for_whatever_device() {
        let why = || Err("NVML is not available".to_owned());
        let pool = Pool::new(why(), None, None, vec![0]).unwrap();
        let reason = lacks(&pool, needs(2), &[]);
        assert!(
            reason.contains("asks for 2 devices") && reason.contains("--devices 0,1"),
            "{reason}"
        );
        let named = ["3".to_owned(), "5".to_owned()];
        let pool = Pool::new(why(), Some(&named), None, vec![0]).unwrap();
        let share = pool.share(needs(2), &[]).unwrap();
        assert_eq!(share.environment["HIP_VISIBLE_DEVICES"], "3,5");
        assert_eq!(share.environment["ZE_AFFINITY_MASK"], "3,5");
    }

    #[test]
    fn cores_are_shared_out_like_devices() {
        let pool = pool(None, None).unwrap();
        let two = Needs { cores: Some(2), ..Needs::default() };
        let first = pool.share(two, &[]).unwrap();
        assert_eq!(first.cores, Some(vec![0, 1]));
        assert_eq!(lacks(&pool, two, &[first]), "it asks for 2 cores, and there are 3");
        let many = Needs { cores: Some(4), ..Needs::default() };
        assert_eq!(lacks(&pool, many, &[]), "it asks for 4 cores, and there are 3");
    }
}
