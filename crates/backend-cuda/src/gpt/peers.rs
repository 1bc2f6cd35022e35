//! The devices that share a step, each of which reaches the others' memory: copies to them, and words that say when
//! these are done (`kernels/gpt_others.cu`).

use super::memory::Memory;
use crate::driver::{Address, Buffer, Context, Gpu};
use crate::kernel::{Kernel, Ptx, Shape};
use nn::backend::TrainError;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

static PTX: Ptx =
    Ptx { name: "gpt_others.ptx", packed: include_bytes!("../../ptx/gpt_others.ptx.gz") };

// As the kernels have them.
pub(crate) const MOST_DEVICES: usize = 16;
const THREADS: usize = 256;
const SHARE_THREADS: u32 = 1024;
const WARP: u32 = 32;

/// Fours of gradients that a thread sums.
const SUM_FOURS: usize = 8;
/// Most blocks that leave a sum of squares each.
const PARTS: usize = 2048;

/// What a device tells the others of, at most once in a step each, in this order. None tells again before it has heard
/// from all others of what comes after.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    Embeddings,
    Gradients,
    Squares,
    Weights,
}

const WORDS: usize = 4;

/// What the others have to know of a device.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    context: Context,
    heard: Address,
    shared: Address,
    received: Address,
    rows: Address,
    /// Parameters as products take them.
    weights: Address,
    /// Parameters and both moments, in float32.
    state: [Address; 3],
}

/// Where the threads of all devices meet.
pub(crate) struct Meeting {
    gathering: Mutex<Gathering>,
    changed: Condvar,
}

struct Gathering {
    places: Vec<Option<Place>>,
    here: usize,
    rounds: usize,
    /// Whether a thread has left for good.
    left: bool,
}

impl Meeting {
    pub(crate) fn new(count: usize) -> Arc<Meeting> {
        let gathering = Gathering { places: vec![None; count], here: 0, rounds: 0, left: false };
        Arc::new(Meeting { gathering: Mutex::new(gathering), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Gathering> {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all are here; false if one has left.
    fn assemble(&self) -> bool {
        let mut gathering = self.lock();
        let round = gathering.rounds;
        gathering.here += 1;
        if gathering.here == gathering.places.len() {
            gathering.here = 0;
            gathering.rounds += 1;
            self.changed.notify_all();
        }
        let waits = |gathering: &mut Gathering| gathering.rounds == round && !gathering.left;
        let waited = self.changed.wait_while(gathering, waits);
        waited.unwrap_or_else(PoisonError::into_inner).rounds > round
    }

    /// Lets nobody wait any longer. True for the first who leaves.
    pub(crate) fn leave(&self) -> bool {
        let first = !std::mem::replace(&mut self.lock().left, true);
        self.changed.notify_all();
        first
    }
}

/// A device's seat among so many.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) meeting: Arc<Meeting>,
    pub(crate) rank: usize,
    pub(crate) count: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Signal {
    heard: Address,
    told: [Address; MOST_DEVICES],
    devices: u32,
    rank: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ShareSum {
    signal: Signal,
    parts: Address,
    shared: [Address; MOST_DEVICES],
    count: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SumDevices {
    gradient: Address,
    received: Address,
    squares: Address,
    fours: u64,
    first_out: u64,
    out: u64,
    apart: u64,
    received_apart: u64,
    place: u64,
    others: u32,
    rank: u32,
}

/// Which gradients are summed, in elements.
pub(crate) struct Summed {
    /// Where they begin, and so many.
    pub(crate) first: usize,
    pub(crate) len: usize,
    /// After so many, so many are left out.
    pub(crate) out: (usize, usize),
    /// So many such ranges, so far from each other.
    pub(crate) count: usize,
    pub(crate) apart: usize,
    /// Where they begin in what was received, and how far they are from each other there.
    pub(crate) received: (usize, usize),
}

/// The other devices, seen from one.
pub(crate) struct Peers {
    gpu: Rc<Gpu>,
    seat: Seat,
    places: Vec<Place>,
    tell: Kernel,
    hear: Kernel,
    share_sum: Kernel,
    sum_devices: Kernel,
    heard: Buffer<u32>,   // (WORDS, devices)
    squares: Buffer<f32>, // (PARTS)
    /// (devices): the sums of squares that each has shared.
    pub(crate) shared: Buffer<f32>,
    received: Buffer<f32>, // (others, place_len)
    rows: Buffer<u8>,      // (others, embedded bytes)
    place_len: usize,
}

impl Peers {
    /// Waits until all devices have room for so many gradients of each other.
    pub(crate) fn new(
        gpu: &Rc<Gpu>,
        memory: &Memory,
        seat: &Seat,
        place_len: usize,
    ) -> Result<Peers, TrainError> {
        let (others, sizes) = (seat.count - 1, &memory.sizes);
        let rows = if sizes.gathers_rows() { sizes.embedded_bytes().iter().sum() } else { 0 };
        let heard = gpu.allocate("words of other devices", WORDS * seat.count)?;
        let shared = gpu.allocate("sums of other devices", seat.count)?;
        let received = gpu.allocate("gradients of other devices", others * place_len)?;
        let rows: Buffer<u8> = gpu.allocate("embedded rows of other devices", others * rows)?;
        let state = &memory.state;
        gpu.synchronize()?; // all words are zero
        let place = Place {
            context: gpu.context,
            heard: heard.address(),
            shared: shared.address(),
            received: received.address(),
            rows: rows.address(),
            weights: memory.weight(0),
            state: [&state.parameters, &state.first_moment, &state.second_moment]
                .map(Buffer::address),
        };
        seat.meeting.lock().places[seat.rank] = Some(place);
        assemble(gpu, seat)?;
        let places: Vec<Place> = seat.meeting.lock().places.iter().flatten().copied().collect();
        places.iter().try_for_each(|other| gpu.reach(other.context))?;
        let module = Rc::new(gpu.load(&PTX)?);
        Ok(Peers {
            gpu: Rc::clone(gpu),
            seat: seat.clone(),
            places,
            tell: module.kernel("tell", 0)?,
            hear: module.kernel("hear", 0)?,
            share_sum: module.kernel("share_sum", 0)?,
            sum_devices: module.kernel("sum_devices", 0)?,
            heard,
            squares: gpu.allocate("squares of gradients", PARTS)?,
            shared,
            received,
            rows,
            place_len,
        })
    }

    pub(crate) fn rank(&self) -> usize {
        self.seat.rank
    }

    /// Waits until the threads of all devices are here: none waits for another's kernels while that one's thread asks
    /// the driver for what may have to wait for this one's.
    pub(crate) fn assemble(&self) -> Result<(), TrainError> {
        assemble(&self.gpu, &self.seat)
    }

    /// The ranks of the others, from the next one on, so that not all copy to the same one at a time.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, count) = (self.seat.rank, self.seat.count);
        (1..count).map(move |step| (rank + step) % count)
    }

    /// Which of the places for others at `to` is that of `from`.
    fn slot(from: usize, to: usize) -> usize {
        from - usize::from(from > to)
    }

    /// Enqueues copies of `len` gradients to each other device, from where `part` says for its rank, to `to` of this
    /// device's place there.
    pub(crate) fn send(
        &self,
        memory: &Memory,
        part: impl Fn(usize) -> usize,
        len: usize,
        to: usize,
    ) -> Result<(), TrainError> {
        self.others().try_for_each(|other| {
            let place = Peers::slot(self.seat.rank, other) * self.place_len + to;
            let to = self.places[other].received + (place * size_of::<f32>()) as u64;
            // SAFETY: the other has a place for each device, and hears of this before it uses it.
            unsafe { self.gpu.copy(memory.gradient(part(other)), to, len * size_of::<f32>()) }
        })
    }

    /// The same of embedded rows and their tokens.
    pub(crate) fn send_rows(
        &self,
        memory: &Memory,
        embedded: [Address; 2],
    ) -> Result<(), TrainError> {
        let bytes = memory.sizes.embedded_bytes();
        self.others().try_for_each(|other| {
            let slot = Peers::slot(self.seat.rank, other);
            let places = self.rows_at(self.places[other].rows, slot, bytes);
            embedded.into_iter().zip(places).zip(bytes).try_for_each(|((from, to), bytes)| {
                // SAFETY: as for `send`.
                unsafe { self.gpu.copy(from, to, bytes) }
            })
        })
    }

    /// All rows, then all tokens.
    fn rows_at(&self, first: Address, slot: usize, [rows, tokens]: [usize; 2]) -> [Address; 2] {
        let all_rows = (self.seat.count - 1) * rows;
        [slot * rows, all_rows + slot * tokens].map(|at| first + at as u64)
    }

    /// What another device has sent of its rows.
    pub(crate) fn rows_of(&self, memory: &Memory, other: usize) -> [Address; 2] {
        let slot = Peers::slot(other, self.seat.rank);
        self.rows_at(self.rows.address(), slot, memory.sizes.embedded_bytes())
    }

    /// Enqueues copies of weights to all others: so many bytes, so many behind the first.
    pub(crate) fn send_weights(&self, behind: usize, bytes: usize) -> Result<(), TrainError> {
        let at = |rank: usize| self.places[rank].weights + behind as u64;
        // SAFETY: all have the same buffers, and hear of this before they use it.
        self.others()
            .try_for_each(|other| unsafe { self.gpu.copy(at(self.seat.rank), at(other), bytes) })
    }

    /// Enqueues copies of the state of another device, which does not work now, to the same place here.
    pub(crate) fn fetch_state(
        &self,
        other: usize,
        behind: usize,
        bytes: usize,
    ) -> Result<(), TrainError> {
        let [from, to] = [other, self.seat.rank].map(|rank| self.places[rank].state);
        from.into_iter().zip(to).try_for_each(|(from, to)| {
            // SAFETY: all have the same buffers.
            unsafe { self.gpu.copy(from + behind as u64, to + behind as u64, bytes) }
        })
    }

    fn signal(&self, word: Word) -> Signal {
        let (rank, count) = (self.seat.rank, self.seat.count);
        let mut told = [0; MOST_DEVICES];
        for (told, place) in told.iter_mut().zip(&self.places) {
            let index = word as usize * count + rank;
            *told = place.heard + (index * size_of::<u32>()) as u64;
        }
        let heard = self.heard.address_of(word as usize * count);
        Signal { heard, told, devices: count as u32, rank: rank as u32 }
    }

    /// Tells all others that what the current stream has so far is done.
    pub(crate) fn tell(&self, word: Word) -> Result<(), TrainError> {
        // SAFETY: all devices have their words as long as any of them trains.
        unsafe { self.tell.launch(Shape::row(1, WARP), &self.signal(word)) }
    }

    /// Lets the current stream wait until all others have told.
    pub(crate) fn hear(&self, word: Word) -> Result<(), TrainError> {
        // SAFETY: as for `tell`.
        unsafe { self.hear.launch(Shape::row(1, WARP), &self.signal(word)) }
    }

    /// Adds what all others have sent of these gradients, in the order of ranks. Squares of the sums are
    /// left for [`Peers::share_squares`], if `squares`.
    pub(crate) fn sum(
        &self,
        memory: &Memory,
        range: &Summed,
        squares: bool,
    ) -> Result<(), TrainError> {
        let fours = |elements: usize| (elements / 4) as u64;
        let wanted = range.len.div_ceil(4 * SUM_FOURS * THREADS);
        let across = if squares { PARTS / range.count } else { wanted };
        assert!(across > 0, "a layer's sum is by a block at least");
        let sum = SumDevices {
            gradient: memory.gradient(range.first),
            received: self.received.address_of(range.received.0),
            squares: if squares { self.squares.address() } else { 0 },
            fours: fours(range.len),
            first_out: fours(range.out.0),
            out: fours(range.out.1),
            apart: fours(range.apart),
            received_apart: fours(range.received.1),
            place: fours(self.place_len),
            others: self.seat.count as u32 - 1,
            rank: self.seat.rank as u32,
        };
        let shape = Shape { grid: [across as u32, range.count as u32], block: THREADS as u32 };
        // SAFETY: the ranges lie in the gradients, in whole fours, and their others in what was received; there are at most
        // `PARTS` blocks that leave squares.
        unsafe { self.sum_devices.launch(shape, &sum) }
    }

    /// Tells all others the sum of the squares that were left last.
    pub(crate) fn share_squares(&self) -> Result<(), TrainError> {
        let mut shared = [0; MOST_DEVICES];
        for (shared, place) in shared.iter_mut().zip(&self.places) {
            *shared = place.shared + (self.seat.rank * size_of::<f32>()) as u64;
        }
        let share = ShareSum {
            signal: self.signal(Word::Squares),
            parts: self.squares.address(),
            shared,
            count: PARTS as u32,
            unused: 0,
        };
        // SAFETY: as for `tell`; all have room for a sum of each device.
        unsafe { self.share_sum.launch(Shape::row(1, SHARE_THREADS), &share) }
    }
}

/// See [`Peers::assemble`]. An error if the thread of another device has ended.
fn assemble(gpu: &Gpu, seat: &Seat) -> Result<(), TrainError> {
    match seat.meeting.assemble() {
        true => Ok(()),
        false => Err(gpu.failure("the thread of another device has ended".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn a_device_has_a_place_for_each_of_the_others() {
        for count in 2..=5 {
            for to in 0..count {
                let others = (0..count).filter(|&from| from != to);
                let slots: Vec<usize> = others.map(|from| Peers::slot(from, to)).collect();
                assert_eq!(slots, (0..count - 1).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn threads_wait_for_each_other_until_one_leaves() {
        let meeting = Meeting::new(3);
        std::thread::scope(|scope| {
            let round = || (0..100).all(|_| meeting.assemble());
            let [one, other] = [scope.spawn(round), scope.spawn(round)];
            assert!(round() && one.join().unwrap() && other.join().unwrap());
            let waits = scope.spawn(|| meeting.assemble());
            assert_eq!([meeting.leave(), meeting.leave()], [true, false]);
            assert!(!waits.join().unwrap() && !meeting.assemble());
        });
    }

    #[test]
    fn arguments_lie_in_memory_as_the_kernels_have_them() {
        let signal =
            [offset_of!(Signal, told), offset_of!(Signal, devices), offset_of!(Signal, rank)];
        assert_eq!((signal, size_of::<Signal>()), ([8, 136, 140], 144));
        let share = [
            offset_of!(ShareSum, parts),
            offset_of!(ShareSum, shared),
            offset_of!(ShareSum, count),
        ];
        assert_eq!(share, [144, 152, 280]);
        let sum = [
            offset_of!(SumDevices, fours),
            offset_of!(SumDevices, place),
            offset_of!(SumDevices, rank),
        ];
        assert_eq!(sum, [24, 64, 76]);
    }
}
