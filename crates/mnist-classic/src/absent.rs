//! Stands for a backend that this program was built without. It never trains: it says why it cannot.

use nn::backend::{Backend, Job, Options, Session, TrainError, Unavailable};
use nn::gpt;
use protocol::DeviceProbe;
use protocol::drivers::Family;

/// The backend's id, and the families of devices that it would reach.
pub struct Absent(pub &'static str, pub &'static [Family]);

impl Absent {
    /// The thing that the machine lacks, or the way to build the program with it.
    fn reason(&self) -> Unavailable {
        let Absent(id, families) = self;
        let first = || families[0].missing().unwrap_or_default();
        let here = families.iter().find(|family| family.missing().is_none());
        Unavailable(here.map_or_else(first, |family| {
            let feature = family.word();
            format!("this program was built without {id}; build it with `--features {feature}`")
        }))
    }
}

impl Backend for Absent {
    fn id(&self) -> &'static str {
        self.0
    }

    fn devices(&self) -> Result<Vec<DeviceProbe>, Unavailable> {
        Err(self.reason())
    }

    fn open<'data>(
        &self,
        _: Job<'data>,
        _: &Options,
    ) -> Result<Box<dyn Session + 'data>, TrainError> {
        Err(self.reason().into())
    }

    fn open_gpt<'data>(
        &self,
        _: gpt::Job<'data>,
        _: &Options,
    ) -> Result<Box<dyn gpt::Session + 'data>, TrainError> {
        Err(self.reason().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_was_left_out_says_what_is_missing_or_how_to_build_it() {
        for family in Family::ALL {
            let stand_in = Absent("left-out", Box::leak(Box::new([family])));
            let said = stand_in.devices().unwrap_err().0;
            let shape = gpt::Shape::small(2);
            let optimiser = gpt::AdamW { learning_rate: 1e-3, warmup: 0, steps: 1 };
            let job = gpt::Job { shape, batch_size: 1, optimiser, text: &[0; 66] };
            let of_gpt = stand_in.open_gpt(job, &Options::default()).err().unwrap();
            assert!(of_gpt.to_string().contains(&said), "{of_gpt}");
            match family.missing() {
                Some(reason) => assert_eq!(said, reason),
                None => assert!(said.ends_with(&format!("`--features {}`", family.word()))),
            }
        }
    }
}
