//! Which row was verified, by what the folders' `verification.json` say.
//!
//! A verification holds for a row of the same trainer, model, backend and configuration but for the
//! epochs and the seed; of the same program and what it was given to run (scripts, locked packages), and on the
//! same hardware, where both say which. Of several
//! the newest counts. A row without one is *not verified*.

use super::collection::{Collection, Row};
use crate::verify::{Grade, Verification, same_training};
use std::collections::HashMap;

/// Sets each row's verification, and whether it is different.
pub(super) fn join(collection: &mut Collection) {
    if collection.verifications.is_empty() {
        return;
    }
    let mut places: HashMap<[&str; 3], Vec<usize>> = HashMap::new();
    for (place, it) in collection.verifications.iter().enumerate() {
        places.entry([&it.executable, &it.model, &it.backend]).or_default().push(place);
    }
    let found: Vec<Option<usize>> = collection
        .rows
        .iter()
        .map(|row| {
            let names = [row.executable, row.model, row.backend].map(|id| collection.text_of(id));
            let candidates = places.get(&names)?.iter().copied();
            let holding = candidates
                .filter(|&place| holds(collection, row, &collection.verifications[place]));
            // RFC 3339 in UTC sorts as text; of equals the last one read.
            holding.max_by_key(|&place| &collection.verifications[place].verified)
        })
        .collect();
    for (row, found) in collection.rows.iter_mut().zip(found) {
        row.verification = found.map(|place| place as u32); // a file has far fewer than 2^32
        row.different =
            found.is_some_and(|place| collection.verifications[place].grade == Grade::Different);
    }
}

fn holds(collection: &Collection, row: &Row, it: &Verification) -> bool {
    let program = row.program.map(|id| collection.text_of(id));
    let sources = row.sources.map(|id| collection.text_of(id));
    let machine = row.machine.map(|id| collection.machine_of(id));
    same_training(collection.config_of(row.config), &it.config, &std::collections::BTreeMap::new())
        && same_where_known(program, it.program_sha256.as_deref(), |a, b| a == b)
        && same_where_known(sources, it.sources_sha256.as_deref(), |a, b| a == b)
        && same_where_known(machine, it.machine.as_ref(), |a, b| {
            (&a.cpu, &a.architecture, &a.gpus) == (&b.cpu, &b.architecture, &b.gpus)
        })
}

fn same_where_known<T>(one: Option<T>, other: Option<T>, same: impl Fn(T, T) -> bool) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => same(one, other),
        _ => true,
    }
}
