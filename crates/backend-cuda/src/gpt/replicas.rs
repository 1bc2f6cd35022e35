//! The same model on several devices, each on a thread of its own with its share of every step's windows.
//! Gradients are sent to all of them during the backward pass and summed after it, so that all take the same steps.

use super::peers::{MOST_DEVICES, Meeting, Seat};
use super::{GptSession, Plan, narrow};
use crate::device::Device;
use crate::driver::Gpu;
use nn::backend::{Description, Measured, TrainError, Unavailable};
use nn::gpt::{AdamW, Job, Session, Shape, State};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request to a device.
enum Request {
    SetState(Arc<State>),
    State,
    /// The starts of its windows, and the number of steps.
    Train(Vec<u32>, usize),
    Predict(Arc<Vec<u16>>, usize),
}

/// Its answer.
enum Answer {
    Ready(Description, Option<f64>),
    Done,
    State(Box<State>),
    Losses(Vec<f32>, Measured),
    Logits(Vec<f32>),
}

/// A device with its thread.
struct Replica {
    requests: Option<SyncSender<Request>>,
    answers: Receiver<Result<Answer, TrainError>>,
    thread: Option<JoinHandle<()>>,
    measured: Measured,
}

impl Replica {
    fn ask(&self, request: Request) -> Result<(), TrainError> {
        // After a failure (`together`) its thread may wait for that device, and would leave whoever asks waiting too.
        let at_work = self.requests.as_ref().filter(|_| self.thread.is_some());
        let sent = at_work.is_some_and(|requests| requests.send(request).is_ok());
        if sent { Ok(()) } else { Err(gone()) }
    }

    fn answer(&self) -> Result<Answer, TrainError> {
        self.answers.recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.requests = None; // the thread ends
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn gone() -> TrainError {
    let message = "the thread of a device has ended".to_owned();
    TrainError::Device { backend: "cuda", message }
}

/// An answer of each, or the first error. The others may then wait for the device that failed, as long as a device is
/// given, so nobody waits for their threads.
fn together(replicas: &mut [Replica]) -> Result<Vec<Answer>, TrainError> {
    let mut answers: Vec<Option<Answer>> = replicas.iter().map(|_| None).collect();
    while answers.iter().any(Option::is_none) {
        for (place, replica) in answers.iter_mut().zip(&*replicas).filter(|it| it.0.is_none()) {
            let error = match replica.answers.recv_timeout(Duration::from_micros(100)) {
                Ok(Ok(answer)) => {
                    *place = Some(answer);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => gone(),
                Ok(Err(error)) => error,
            };
            replicas.iter_mut().for_each(|replica| replica.thread = None);
            return Err(error);
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

/// The error with the device that it is of.
fn named(error: TrainError, rank: usize) -> TrainError {
    match error {
        TrainError::Device { backend, message } => {
            let message = format!("GPU {} of those named: {message}", rank + 1);
            TrainError::Device { backend, message }
        }
        other => other,
    }
}

/// Why these devices cannot share a step, if they cannot.
fn refusal(devices: &[Device], reaches: impl Fn(&Device, &Device) -> bool) -> Option<String> {
    let count = devices.len();
    if count > MOST_DEVICES {
        return Some(format!(
            "{count} GPUs for a step of gpt: cuda shares it among {MOST_DEVICES}"
        ));
    }
    for (rank, device) in devices.iter().enumerate() {
        let mut others = devices.iter().enumerate().filter(|&(other, _)| other != rank);
        if let Some((other, _)) = others.find(|(_, other)| !reaches(device, other)) {
            return Some(format!(
                "GPUs that share a step of gpt copy to each other's memory, over NVLink or PCIe: of those named, number \
                 {} cannot reach number {}",
                rank + 1,
                other + 1
            ));
        }
    }
    None
}

/// The data that each thread needs to start.
#[derive(Clone)]
struct Share {
    shape: Shape,
    batch_size: usize,
    optimiser: AdamW,
    text: Arc<Vec<u16>>,
    plan: Plan,
    seat: Seat,
}

/// Runs a device until nobody asks any longer, or a step fails.
fn run(
    device: Device,
    share: &Share,
    requests: &Receiver<Request>,
    answers: &SyncSender<Result<Answer, TrainError>>,
) -> Result<(), TrainError> {
    let gpu = Gpu::open("cuda", device)?;
    let Share { shape, batch_size, optimiser, plan, .. } = *share;
    let job = Job { shape, batch_size, optimiser, text: &share.text };
    let mut session = GptSession::open(&gpu, job, plan, Some(&share.seat))?;
    let reply = |answer| {
        let _ = answers.send(answer); // nobody listens: the requests end too
    };
    reply(Ok(Answer::Ready(session.description(), session.compile_s())));
    for request in requests {
        let answer = match request {
            Request::SetState(state) => session.set_state(&state).map(|()| Answer::Done),
            Request::State => session.state().map(|state| Answer::State(Box::new(state))),
            Request::Train(starts, steps) => {
                let mut losses = vec![0.0; steps];
                if let Err(error) = session.train(&starts, &mut losses) {
                    gpu.abandoned.set(true); // others may still copy into its memory
                    return Err(error);
                }
                Ok(Answer::Losses(losses, session.measured()))
            }
            Request::Predict(tokens, len) => {
                let mut logits = vec![0.0; len];
                session.predict(&tokens, &mut logits).map(|()| Answer::Logits(logits))
            }
        };
        reply(answer);
    }
    Ok(())
}

/// A training on several devices.
pub(crate) struct Replicas<'data> {
    replicas: Vec<Replica>,
    job: Job<'data>,
    description: Description,
    compile_s: f64,
}

impl<'data> Replicas<'data> {
    pub(crate) fn open(
        devices: Vec<Device>,
        job: Job<'data>,
        plan: Plan,
    ) -> Result<Replicas<'data>, TrainError> {
        job.check()?;
        let count = devices.len();
        if !job.batch_size.is_multiple_of(count) {
            return Err(TrainError::Mismatch(format!(
                "{} windows in a step cannot be shared by {count} devices",
                job.batch_size
            )));
        }
        if let Some(reason) = refusal(&devices, Device::reaches) {
            return Err(Unavailable(reason).into());
        }
        // Their exchanges have to be the same, so one that is not for the kernels of narrow models decides for all.
        let fits = |device: &Device| narrow::fits(device, job.shape, plan.element);
        let plan = Plan { narrow: plan.narrow && devices.iter().all(fits), ..plan };
        let meeting = Meeting::new(count);
        let text = Arc::new(job.text.to_vec());
        let mut replicas = Vec::new();
        for (rank, device) in devices.into_iter().enumerate() {
            let share = Share {
                shape: job.shape,
                batch_size: job.batch_size / count,
                optimiser: job.optimiser,
                text: Arc::clone(&text),
                plan,
                seat: Seat { meeting: Arc::clone(&meeting), rank, count },
            };
            let (requests, asked) = sync_channel(1);
            let (replies, answers) = sync_channel(1);
            let thread = std::thread::spawn(move || {
                let Err(error) = run(device, &share, &asked, &replies) else { return };
                if share.seat.meeting.leave() {
                    let _ = replies.send(Err(named(error, rank)));
                }
                for _ in asked {} // one whose error came of another's says nothing until nobody asks any longer
            });
            replicas.push(Replica {
                requests: Some(requests),
                answers,
                thread: Some(thread),
                measured: Measured::default(),
            });
        }
        let mut description = None;
        let mut compile_s = 0.0_f64;
        for answer in together(&mut replicas)? {
            let Answer::Ready(told, seconds) = answer else { return Err(gone()) };
            compile_s = compile_s.max(seconds.unwrap_or(0.0));
            description.get_or_insert(told);
        }
        let Some(mut description) = description else { return Err(gone()) };
        description.path = format!("{count} devices, {}", description.path);
        Ok(Replicas { replicas, job, description, compile_s })
    }
}

impl Session for Replicas<'_> {
    fn description(&self) -> Description {
        self.description.clone()
    }

    fn compile_s(&self) -> Option<f64> {
        Some(self.compile_s)
    }

    fn set_state(&mut self, state: &State) -> Result<(), TrainError> {
        let state = Arc::new(state.clone());
        for replica in &self.replicas {
            replica.ask(Request::SetState(Arc::clone(&state)))?;
        }
        let all: Vec<_> = self.replicas.iter().map(Replica::answer).collect(); // of all, errors too
        all.into_iter().try_for_each(|answer| answer.map(|_| ()))
    }

    fn state(&mut self) -> Result<State, TrainError> {
        self.replicas[0].ask(Request::State)?; // it fetches what only others have
        match self.replicas[0].answer()? {
            Answer::State(state) => Ok(*state),
            _ => Err(gone()),
        }
    }

    fn train(&mut self, starts: &[u32], step_loss: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_starts(starts, step_loss)?;
        let (batch, count) = (self.job.batch_size, self.replicas.len());
        let share = batch / count;
        for (rank, replica) in self.replicas.iter().enumerate() {
            let own = starts.chunks(batch).flat_map(|step| &step[rank * share..(rank + 1) * share]);
            replica.ask(Request::Train(own.copied().collect(), step_loss.len()))?;
        }
        step_loss.fill(0.0);
        let answers = together(&mut self.replicas)?;
        for (replica, answer) in self.replicas.iter_mut().zip(answers) {
            let Answer::Losses(losses, measured) = answer else { return Err(gone()) };
            replica.measured = measured;
            for (sum, loss) in step_loss.iter_mut().zip(losses) {
                *sum += loss / count as f32;
            }
        }
        Ok(())
    }

    fn predict(&mut self, tokens: &[u16], logits: &mut [f32]) -> Result<(), TrainError> {
        self.job.check_prediction(tokens, logits)?;
        self.replicas[0].ask(Request::Predict(Arc::new(tokens.to_vec()), logits.len()))?;
        let Answer::Logits(found) = self.replicas[0].answer()? else { return Err(gone()) };
        logits.copy_from_slice(&found);
        Ok(())
    }

    /// The time of the slowest, and the memory of all.
    fn measured(&self) -> Measured {
        let all = self.replicas.iter().map(|replica| replica.measured);
        all.fold(Measured::default(), |sum, one| Measured {
            device_s: match (sum.device_s, one.device_s) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            },
            device_peak_bytes: match (sum.device_peak_bytes, one.device_peak_bytes) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            },
            executed_flop: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device;

    /// One whose thread answers, if it does, and then waits for ever, as for a device that failed.
    fn replica(answer: Option<Result<Answer, TrainError>>) -> Replica {
        let (requests, _) = sync_channel(1);
        let (replies, answers) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            if let Some(answer) = answer {
                replies.send(answer).unwrap();
            }
            loop {
                std::thread::park();
            }
        });
        let (requests, thread) = (Some(requests), Some(thread));
        Replica { requests, answers, thread, measured: Measured::default() }
    }

    /// One that answers as its rank does, and says what it was asked.
    fn answering(rank: usize, shape: Shape, asked: std::sync::mpsc::Sender<usize>) -> Replica {
        let (requests, received) = sync_channel(1);
        let (replies, answers) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            for request in received {
                let answer = match request {
                    Request::State if rank == 0 => Answer::State(Box::new(State::zeros(shape))),
                    Request::Train(starts, steps) => {
                        Answer::Losses(vec![starts[0] as f32; steps], Measured::default())
                    }
                    _ => Answer::Done,
                };
                asked.send(rank).unwrap();
                replies.send(Ok(answer)).unwrap();
            }
        });
        let (requests, thread) = (Some(requests), Some(thread));
        Replica { requests, answers, thread, measured: Measured::default() }
    }

    #[test]
    fn devices_have_to_reach_each_other_but_not_themselves() {
        let devices: Vec<Device> = (0..3)
            .map(|handle| Device { handle, ..device::tests::device("NVIDIA H200", [9, 0]) })
            .collect();
        let others = |one: &Device, other: &Device| one.handle != other.handle;
        assert_eq!(refusal(&devices, others), None);
        let reason = refusal(&devices, |one, other| (one.handle, other.handle) != (1, 2));
        assert!(reason.unwrap().ends_with("of those named, number 2 cannot reach number 3"));
        let many = vec![devices[0].clone(); MOST_DEVICES + 1];
        assert!(refusal(&many, |_, _| true).unwrap().starts_with("17 GPUs"));
    }

    #[test]
    fn the_first_device_is_asked_for_the_state_and_all_for_steps() {
        let shape = Shape { layers: 1, heads: 1, width: 8, context: 2, vocabulary: 4 };
        let optimiser = AdamW { learning_rate: 1e-3, warmup: 1, steps: 2 };
        let job = Job { shape, batch_size: 2, optimiser, text: &[0, 1, 2, 3, 0] };
        let (asked, by) = std::sync::mpsc::channel();
        let replicas = (0..2).map(|rank| answering(rank, shape, asked.clone())).collect();
        let description = Description {
            device: String::new(),
            path: String::new(),
            threads: None,
            precision: "float32",
            software: false,
        };
        let mut session = Replicas { replicas, job, description, compile_s: 0.0 };
        session.state().unwrap();
        assert_eq!(by.try_iter().collect::<Vec<_>>(), [0]);
        let mut losses = [0.0];
        session.train(&[1, 2], &mut losses).unwrap();
        assert_eq!(losses, [1.5], "each device's window has its start as its loss");
        let mut ranks: Vec<usize> = by.try_iter().collect();
        ranks.sort_unstable();
        assert_eq!(ranks, [0, 1]);
    }

    #[test]
    fn a_device_that_fails_is_told_of_though_another_waits_for_it_for_ever() {
        let full = TrainError::Device { backend: "cuda", message: "out of memory".to_owned() };
        let mut replicas = vec![replica(None), replica(Some(Err(full)))];
        let error = together(&mut replicas).err().unwrap();
        assert!(error.to_string().contains("out of memory"), "{error}");
    }
}
