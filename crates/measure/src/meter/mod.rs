//! The operating system's account of a trainer's process tree.

mod events;
mod meters;
mod reading;
mod sample;
mod usage;

#[cfg(target_os = "linux")]
#[path = "sampler_linux.rs"]
mod sampler;
#[cfg(not(target_os = "linux"))]
#[path = "sampler_macos.rs"]
mod sampler;

pub use meters::Meters;
pub use reading::Reading;
pub use sample::RankUse;

pub(crate) use events::Events;
pub(crate) use sampler::TreeSampler;
pub(crate) use usage::{cpu_s, meters};
