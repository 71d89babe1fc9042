//! The one thread that computes: sequences wait in a queue, take a slot as soon as one is free, and
//! their tokens are told as they are drawn. A sequence whose client has gone, or whose time is
//! over, leaves its slot before the next step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use randori_engine::{Asked, Batch, Likely, Token};

/// A sequence that is wanted.
pub struct Job {
    /// How it is made.
    pub asked: Asked,
    /// Whether its prompt's log-probs are wanted, too.
    pub reads: bool,
    /// Its client's word for it, and where its tokens go.
    pub client: Seat,
}

/// Who waits for a sequence.
pub struct Seat {
    /// Which of the client's sequences.
    pub number: usize,
    /// Where events go.
    pub to: Sender<(usize, Event)>,
    /// Nobody waits any more.
    pub gone: Arc<AtomicBool>,
    /// When it has taken too long.
    pub until: Instant,
}

/// What is told of a sequence.
pub enum Event {
    /// The prompt's log-probs, all but the first token's.
    Read(Vec<Likely>),
    /// The next token.
    Token(Token),
    /// No token was wanted.
    Over,
    /// It took too long.
    Late,
    /// The engine's error.
    Failed(String),
}

impl Seat {
    fn tell(&self, event: Event) {
        if self.to.send((self.number, event)).is_err() {
            self.gone.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it is still waited for; whoever waits too long is told.
    fn waits(&self) -> bool {
        if self.gone.load(Ordering::Relaxed) {
            return false;
        }
        let late = Instant::now() >= self.until;
        if late {
            self.tell(Event::Late);
        }
        !late
    }
}

/// Answers `jobs` until nobody can send any more; `waiting` counts those that have no slot yet.
pub fn run(mut batch: Batch, slots: usize, jobs: &Receiver<Job>, waiting: &AtomicUsize) {
    let mut seats: Vec<Option<Seat>> = std::iter::repeat_with(|| None).take(slots).collect();
    let mut queue: VecDeque<Job> = VecDeque::new();
    loop {
        if queue.is_empty() && batch.is_idle() {
            match jobs.recv() {
                Ok(job) => queue.push_back(job),
                Err(_) => return,
            }
        }
        queue.extend(jobs.try_iter());
        let before = queue.len();
        queue.retain(|job| job.client.waits());
        waiting.fetch_sub(before - queue.len(), Ordering::Relaxed);
        for (slot, place) in seats.iter_mut().enumerate() {
            if place.as_ref().is_some_and(|seat| !seat.waits()) {
                *place = None;
                batch.leave(slot);
            }
        }
        while batch.free_slot().is_some() {
            let Some(job) = queue.pop_front() else { break };
            waiting.fetch_sub(1, Ordering::Relaxed);
            let reads = job.reads;
            begin(&mut batch, &mut seats, job);
            if reads {
                break; // a long one: the others' next tokens come first
            }
        }
        for (slot, token) in batch.step() {
            let Some(place) = seats.get_mut(slot) else {
                continue;
            };
            let over = !matches!(&token, Ok(Token { last: None, .. }));
            if let Some(seat) = place {
                seat.tell(match token {
                    Ok(token) => Event::Token(token),
                    Err(e) => Event::Failed(e.to_string()),
                });
            }
            if over {
                *place = None;
            }
        }
    }
}

/// Reads a job's prompt if that is wanted, and puts it into a slot if more is.
fn begin(batch: &mut Batch, seats: &mut [Option<Seat>], job: Job) {
    let Job {
        asked,
        reads,
        client,
    } = job;
    if reads {
        match batch.read(&asked) {
            Err(e) => return client.tell(Event::Failed(e.to_string())),
            Ok((read, drawn)) => {
                client.tell(Event::Read(read));
                if let Some(token) = drawn {
                    return client.tell(Event::Token(token));
                }
            }
        }
    }
    if asked.options.max_new_tokens == 0 {
        return client.tell(Event::Over);
    }
    match batch.enter(asked) {
        Ok(slot) => seats[slot] = Some(client),
        Err(e) => client.tell(Event::Failed(e.to_string())),
    }
}
