//! Starting one trainer.
