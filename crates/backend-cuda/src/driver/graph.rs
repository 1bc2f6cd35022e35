//! Work that is captured once and replayed, as CUDA graphs.

use super::Gpu;
use cudarc::driver::{result, sys};
use nn::backend::TrainError;
use std::rc::Rc;

/// What is replayed in its stream.
pub(super) enum Piece {
    Graph(sys::CUgraphExec, sys::CUstream),
    Record(sys::CUevent, sys::CUstream),
    Wait(sys::CUevent, sys::CUstream),
}

/// A capture that events cut into pieces, and the stream that is captured now.
pub(super) struct Cutting {
    graph: Graph,
    stream: sys::CUstream,
}

impl Gpu {
    /// What `enqueue` enqueues, captured instead of run: one graph, of which each stream is a branch.
    pub(crate) fn capture(
        self: &Rc<Self>,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<Graph, TrainError> {
        self.begin_capture(self.stream)?;
        let enqueued = enqueue();
        let captured = self.end_capture(self.stream);
        enqueued?;
        Ok(Graph { pieces: captured?.into_iter().collect(), gpu: Rc::clone(self) })
    }

    /// The same as graphs of one stream each, with events between them. In a graph that has branches each kernel waits
    /// half a microsecond longer for the one before it, and four with memory to be set between them (H200, CUDA 13.0):
    /// a step of `char` on two devices takes 3.06 ms like this and 3.20 as one graph. Events have to outlive the graph.
    pub(crate) fn capture_in_pieces(
        self: &Rc<Self>,
        enqueue: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<Graph, TrainError> {
        self.begin_capture(self.stream)?;
        let graph = Graph { pieces: Vec::new(), gpu: Rc::clone(self) };
        self.cutting.replace(Some(Cutting { graph, stream: self.stream }));
        let enqueued = enqueue();
        let Some(Cutting { mut graph, stream }) = self.cutting.take() else {
            unreachable!("it was just put there")
        };
        let captured = self.end_capture(stream);
        enqueued?;
        graph.pieces.extend(captured?);
        Ok(graph)
    }

    /// Whether pieces are captured. If so, the one so far is ended, `next` follows it, and another one of the current
    /// stream begins.
    pub(super) fn cut(&self, next: Option<Piece>) -> Result<bool, TrainError> {
        let mut cutting = self.cutting.borrow_mut();
        let Some(Cutting { graph, stream }) = cutting.as_mut() else { return Ok(false) };
        graph.pieces.extend(self.end_capture(*stream)?);
        graph.pieces.extend(next);
        *stream = self.current.get();
        self.begin_capture(*stream)?;
        Ok(true)
    }

    fn begin_capture(&self, stream: sys::CUstream) -> Result<(), TrainError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive, and every capture that begins is ended.
        unsafe { result::stream::begin_capture(stream, mode) }
            .map_err(|error| self.error("capturing a graph", error))
    }

    /// What was captured since, if anything.
    fn end_capture(&self, stream: sys::CUstream) -> Result<Option<Piece>, TrainError> {
        let failed = |error| self.error("capturing a graph", error);
        let mut nodes = 0;
        // SAFETY: the capture has begun; the executable graph does not need the one it is made of any longer.
        unsafe {
            let graph = result::stream::end_capture(stream).map_err(failed)?;
            let counted = sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut nodes).result();
            let flags = sys::CUgraphInstantiate_flags_enum(0);
            let made = counted.and_then(|()| match nodes {
                0 => Ok(None),
                _ => result::graph::instantiate(graph, flags).map(Some),
            });
            result::graph::destroy(graph).map_err(failed)?;
            Ok(made.map_err(failed)?.map(|executable| Piece::Graph(executable, stream)))
        }
    }
}

/// Launches that are replayed together.
pub(crate) struct Graph {
    pieces: Vec<Piece>,
    gpu: Rc<Gpu>,
}

impl Graph {
    pub(crate) fn launch(&self) -> Result<(), TrainError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        for piece in &self.pieces {
            // SAFETY: all are alive.
            unsafe {
                match *piece {
                    Piece::Graph(executable, stream) => result::graph::launch(executable, stream),
                    Piece::Record(event, stream) => result::event::record(event, stream),
                    Piece::Wait(event, stream) => result::stream::wait_event(stream, event, flags),
                }
            }
            .map_err(|error| self.gpu.error("replaying a graph", error))?;
        }
        Ok(())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.abandoned.get() {
            return;
        }
        for piece in &self.pieces {
            if let Piece::Graph(executable, _) = *piece {
                // SAFETY: made by `Gpu::end_capture`, destroyed once.
                let _ = unsafe { result::graph::exec_destroy(executable) };
            }
        }
    }
}
