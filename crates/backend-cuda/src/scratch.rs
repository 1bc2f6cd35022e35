//! Memory that kernels of libraries and our own share, since they run one after the other.

use crate::driver::{Address, Buffer, Gpu, Lane};
use nn::backend::TrainError;
use std::cell::RefCell;
use std::rc::Rc;

/// Memory that each call may spoil and none relies on afterwards: one buffer for whatever runs in a stream.
pub(crate) struct Scratch {
    gpu: Rc<Gpu>,
    /// Of the first stream, and of [`Lane::Beside`].
    buffers: [RefCell<Option<Buffer<u8>>>; 2],
}

impl Scratch {
    pub(crate) fn new(gpu: &Rc<Gpu>) -> Rc<Scratch> {
        Rc::new(Scratch { gpu: Rc::clone(gpu), buffers: Default::default() })
    }

    /// Makes that of the first stream as large as this, before a graph knows its address.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<(), TrainError> {
        self.reserve_in(0, bytes)
    }

    /// The same for what runs beside it.
    pub(crate) fn reserve_beside(&self, bytes: usize) -> Result<(), TrainError> {
        self.reserve_in(1 + Lane::Beside as usize, bytes)
    }

    fn reserve_in(&self, stream: usize, bytes: usize) -> Result<(), TrainError> {
        let mut buffer = self.buffers[stream].borrow_mut();
        if bytes > buffer.as_ref().map_or(0, Buffer::len) {
            let earlier = buffer.take().map(|it| it.len()); // or both would be in memory at a time
            let larger = self.gpu.allocate("scratch", bytes);
            let len = if larger.is_err() { earlier } else { None };
            // Whoever asks goes on without, and others rely on what they have reserved.
            *buffer = len.map(|len| self.gpu.allocate("scratch", len)).transpose()?;
            *buffer = Some(larger?);
        }
        Ok(())
    }

    /// Of the current stream; 0 if nobody has reserved any.
    pub(crate) fn address(&self) -> Address {
        self.buffers[self.gpu.stream_number()].borrow().as_ref().map_or(0, Buffer::address)
    }
}
