//! The capture of what is enqueued, as one CUDA graph or as pieces of one stream each, with events between them.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUevent, CUgraphExec, CUstream};

/// What is replayed in its stream.
pub(crate) enum Piece {
    Graph(CUgraphExec, CUstream),
    Record(CUevent, CUstream),
    Wait(CUevent, CUstream),
}

impl Piece {
    /// # Safety
    /// What it is made of is alive.
    pub(crate) unsafe fn launch(&self) -> Result<(), DriverError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as this function's.
        unsafe {
            match *self {
                Piece::Graph(executable, stream) => result::graph::launch(executable, stream),
                Piece::Record(event, stream) => result::event::record(event, stream),
                Piece::Wait(event, stream) => result::stream::wait_event(stream, event, flags),
            }
        }
    }

    /// # Safety
    /// It is not launched again, and nobody else destroys it.
    pub(crate) unsafe fn destroy(&self) {
        if let Piece::Graph(executable, _) = *self {
            // SAFETY: as this function's.
            let _ = unsafe { result::graph::exec_destroy(executable) };
        }
    }
}

/// A capture that has begun.
pub(crate) struct Capture {
    pieces: Vec<Piece>,
    stream: CUstream,
}

impl Capture {
    /// # Safety
    /// The streams that it is told of are alive while it lasts, and so are the events as long as its pieces are launched.
    pub(crate) unsafe fn begin(stream: CUstream) -> Result<Capture, DriverError> {
        // SAFETY: as this function's.
        unsafe { begin(stream) }?;
        Ok(Capture { pieces: Vec::new(), stream })
    }

    /// Ends the piece so far, lets `next` follow it, and begins another one of `stream`.
    pub(crate) fn cut(&mut self, next: Option<Piece>, stream: CUstream) -> Result<(), DriverError> {
        self.end_piece()?;
        self.pieces.extend(next);
        self.stream = stream;
        // SAFETY: see `begin`.
        unsafe { begin(stream) }
    }

    pub(crate) fn end(mut self) -> Result<Vec<Piece>, DriverError> {
        self.end_piece()?;
        Ok(std::mem::take(&mut self.pieces))
    }

    /// What was captured since the last piece, if anything.
    fn end_piece(&mut self) -> Result<(), DriverError> {
        let mut nodes = 0;
        // SAFETY: a capture has begun; the executable graph does not need the one it is made of any longer.
        unsafe {
            let graph = result::stream::end_capture(self.stream)?;
            let counted = sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut nodes).result();
            let flags = sys::CUgraphInstantiate_flags_enum(0);
            let made = counted.and_then(|()| match nodes {
                0 => Ok(None),
                _ => result::graph::instantiate(graph, flags).map(Some),
            });
            result::graph::destroy(graph)?;
            let stream = self.stream;
            self.pieces.extend(made?.map(|executable| Piece::Graph(executable, stream)));
        }
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: nobody has got them.
        self.pieces.iter().for_each(|piece| unsafe { piece.destroy() });
    }
}

/// # Safety
/// The stream is alive, and the capture is ended.
unsafe fn begin(stream: CUstream) -> Result<(), DriverError> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: as this function's.
    unsafe { result::stream::begin_capture(stream, mode) }
}
