//! Launches that are captured once and replayed.

use crate::capture::{Capture, Piece};
use crate::driver::Gpu;
use nn::backend::TrainError;
use std::rc::Rc;

impl Gpu {
    /// What `enqueue` enqueues, captured instead of run: one graph, of which each stream is a branch.
    pub(crate) fn capture(
        self: &Rc<Self>,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<Graph, TrainError> {
        let capture = self.begin_capture()?;
        let enqueued = enqueue();
        self.end_capture(capture, enqueued)
    }

    /// The same as graphs of one stream each, with events between them, which have to outlive it. In a graph that has
    /// branches each kernel waits half a microsecond longer for the one before it, and four with memory to be set
    /// between them (H200, driver 580): a step of `char` on two devices took 3.06 ms like this and 3.20 as one graph, when
    /// gradients were still summed by NCCL.
    pub(crate) fn capture_in_pieces(
        self: &Rc<Self>,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<Graph, TrainError> {
        let capture = self.begin_capture()?;
        self.cutting.replace(Some(capture));
        let enqueued = enqueue();
        match self.cutting.take() {
            Some(capture) => self.end_capture(capture, enqueued),
            None => unreachable!("it was just put there"),
        }
    }

    /// If pieces are captured, `next` follows the one so far, and another one of the current stream begins.
    pub(crate) fn cut(&self, next: Option<Piece>) -> Result<(), TrainError> {
        let mut cutting = self.cutting.borrow_mut();
        let Some(capture) = cutting.as_mut() else { return Ok(()) };
        let cut = capture.cut(next, self.current.get());
        cut.map_err(|error| self.error("capturing a graph", error))
    }

    /// Enqueues `piece`, or lets it follow the pieces that are captured.
    ///
    /// # Safety
    /// What it is made of is alive, as long as it may be replayed.
    pub(crate) unsafe fn place(&self, piece: Piece, doing: &str) -> Result<(), TrainError> {
        if self.cutting.borrow().is_some() {
            return self.cut(Some(piece));
        }
        // SAFETY: as this function's.
        unsafe { piece.launch() }.map_err(|error| self.error(doing, error))
    }

    fn begin_capture(&self) -> Result<Capture, TrainError> {
        // SAFETY: the streams live as long as the graph, which has a reference to their owner.
        unsafe { Capture::begin(self.current.get()) }
            .map_err(|error| self.error("capturing a graph", error))
    }

    fn end_capture(
        self: &Rc<Self>,
        capture: Capture,
        enqueued: Result<(), TrainError>,
    ) -> Result<Graph, TrainError> {
        let pieces = capture.end().map_err(|error| self.error("capturing a graph", error));
        let graph = pieces.map(|pieces| Graph { gpu: Rc::clone(self), pieces });
        enqueued?; // the reason why the capture may have failed
        graph
    }
}

/// Launches that are replayed together.
pub(crate) struct Graph {
    gpu: Rc<Gpu>,
    pieces: Vec<Piece>,
}

impl Graph {
    pub(crate) fn launch(&self) -> Result<(), TrainError> {
        // SAFETY: streams and events outlive it: see `Gpu::capture_in_pieces`.
        let mut launches = self.pieces.iter().map(|piece| unsafe { piece.launch() });
        launches
            .try_for_each(|launched| launched)
            .map_err(|error| self.gpu.error("replaying a graph", error))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.gpu.abandoned.get() {
            // SAFETY: they are this graph's alone.
            self.pieces.iter().for_each(|piece| unsafe { piece.destroy() });
        }
    }
}
