//! One client from its first request to its last: who may ask, what is asked, and what is answered,
//! whole or in a stream of events.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use randori_engine::{Asked as Sequence, GenerateOptions};
use serde_json::{Value, json};

use super::ask::Wanted;
use super::choice::Choice;
use super::desk::{Event, Job, Seat};
use super::house::House;
use super::http::{Asked, Broken, Client, Room};
use super::refusal::Refusal;
use super::route::{Route, is_here, same};

/// How often it is looked whether a client is still there.
const LOOK: Duration = Duration::from_millis(100);

/// Where requests come in.
pub struct Door {
    /// What is served.
    pub house: House,
    /// The key that a client must show.
    pub key: Option<String>,
    /// Whether only this machine is spoken to: another name for it is then a page's, whose address
    /// was turned to it.
    pub loopback: bool,
    /// Most sequences that wait.
    pub queue: usize,
    /// Time that an answer may take.
    pub time: Duration,
    /// Sequences that wait.
    pub waiting: Arc<AtomicUsize>,
    /// Requests that are being answered.
    pub running: AtomicUsize,
    /// No more are taken.
    pub closed: AtomicBool,
    /// Who is there.
    pub room: Room,
    /// Requests so far, which number the draws of those without a seed.
    pub count: AtomicU64,
    /// To the thread that computes.
    pub jobs: Sender<Job>,
}

/// Why there is no answer.
enum Failed {
    /// The client has gone.
    Gone,
    /// It is told so.
    Refused(Refusal),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Failed {
        Failed::Refused(refusal)
    }
}

impl From<std::io::Error> for Failed {
    fn from(_: std::io::Error) -> Failed {
        Failed::Gone
    }
}

/// Answers a client's requests, one after the other.
pub fn serve(door: &Door, stream: TcpStream) {
    let Ok(mut client) = Client::new(stream) else {
        return;
    };
    loop {
        let (asked, route) = match door.next(&mut client) {
            Ok(asked) => asked,
            Err(Broken::Closed) => return,
            Err(Broken::Refused(refusal)) => {
                let told = client.refuse(&refusal, false);
                if told.is_ok() {
                    client.drain();
                }
                return;
            }
        };
        let stays = asked.stays && !door.closed.load(Ordering::Relaxed);
        door.running.fetch_add(1, Ordering::Relaxed);
        let done = door.answer(&mut client, &asked, route, stays);
        let stays = match done {
            Ok(streamed) => stays && !streamed,
            Err(Failed::Gone) => false,
            Err(Failed::Refused(refusal)) => {
                let told = client.refuse(&refusal, stays);
                stays && told.is_ok()
            }
        };
        door.running.fetch_sub(1, Ordering::Relaxed);
        if !stays {
            return;
        }
    }
}

impl Door {
    /// The next request of a client, which is refused by its head where that says enough: nobody
    /// without the key has a body read.
    fn next(&self, client: &mut Client) -> Result<(Asked, Route), Broken> {
        let (asked, length) = client.next(&self.room)?;
        let route = self.admit(&asked).and_then(|()| Route::of(&asked));
        let route = route.map_err(Broken::Refused)?;
        Ok((client.body(asked, length)?, route))
    }

    /// Answers a request; whether by a stream.
    fn answer(
        &self,
        client: &mut Client,
        asked: &Asked,
        route: Route,
        stays: bool,
    ) -> Result<bool, Failed> {
        let wanted = match route {
            Route::Models => {
                client.answer(&self.house.list(), stays)?;
                return Ok(false);
            }
            Route::Model(name) => {
                self.house.player(&name)?;
                client.answer(&self.house.model(&name), stays)?;
                return Ok(false);
            }
            Route::Completion { chat } => Wanted::of(&self.house, &asked.body, chat)?,
        };
        let mut reply = Reply::begin(self, wanted)?;
        match reply.wanted.stream {
            true => reply.stream(client).map(|()| true),
            false => {
                reply.collect(client)?;
                client.answer(&reply.whole(), stays)?;
                Ok(false)
            }
        }
    }

    /// Whether this client may ask at all.
    fn admit(&self, asked: &Asked) -> Result<(), Refusal> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Refusal::new(
                503,
                "shutting_down",
                "the server is being stopped",
            ));
        }
        if let Some(key) = &self.key {
            let given = asked.field("authorization").unwrap_or_default();
            let given = given.strip_prefix("Bearer ").unwrap_or_default();
            if !same(given.as_bytes(), key.as_bytes()) {
                let text = "the key is missing or wrong: Authorization: Bearer KEY";
                return Err(Refusal::new(401, "invalid_api_key", text));
            }
        } else if self.loopback && !is_here(asked.field("host").unwrap_or_default()) {
            let text = "the request's Host is no name of this machine's loopback";
            return Err(Refusal::new(403, "wrong_host", text));
        }
        Ok(())
    }
}

/// An answer that is being made.
struct Reply<'a> {
    house: &'a House,
    wanted: Wanted,
    choices: Vec<Choice>,
    /// One for each choice: nobody waits for it any more.
    over: Vec<Arc<AtomicBool>>,
    events: Receiver<(usize, Event)>,
    id: String,
    created: u64,
    looked: Instant,
}

impl<'a> Reply<'a> {
    /// Queues all sequences of a request, or none.
    fn begin(door: &'a Door, wanted: Wanted) -> Result<Self, Refusal> {
        let count = wanted.prompts.len();
        let before = door.waiting.fetch_add(count, Ordering::Relaxed);
        if before + count > door.queue {
            door.waiting.fetch_sub(count, Ordering::Relaxed);
            let text = format!(
                "{before} sequences wait already, {count} more are wanted, and {} may",
                door.queue
            );
            return Err(Refusal::new(503, "queue_full", text));
        }
        let (to, events) = channel();
        let number = door.count.fetch_add(count as u64, Ordering::Relaxed);
        let until = Instant::now() + door.time;
        let reads = wanted.echo && wanted.logprobs.is_some();
        let (mut choices, mut over) = (Vec::new(), Vec::new());
        for (i, (prompt, text)) in wanted.prompts.iter().enumerate() {
            let mut choice = Choice::default();
            if wanted.echo {
                let ids: &[u32] = if reads { prompt } else { &[] };
                choice.echo(ids, text);
            }
            choices.push(choice);
            let own: Arc<AtomicBool> = Arc::default();
            over.push(own.clone());
            let first = if wanted.seeded { 0 } else { number };
            let job = Job {
                asked: Sequence {
                    player: wanted.player,
                    prompt: prompt.clone(),
                    samplers: wanted.samplers.clone(),
                    options: GenerateOptions {
                        first_sequence: first + i as u64,
                        ..wanted.options.clone()
                    },
                    top: wanted.logprobs.unwrap_or(0),
                },
                reads,
                client: Seat {
                    number: i,
                    to: to.clone(),
                    gone: own,
                    until,
                },
            };
            if door.jobs.send(job).is_err() {
                return Err(Refusal::new(500, "engine_failed", "the engine has ended"));
            }
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let kind = if wanted.chat { "chatcmpl" } else { "cmpl" };
        Ok(Reply {
            house: &door.house,
            choices,
            over,
            events,
            id: format!("{kind}-{}-{number}", door.house.since),
            created: since.map_or(0, |time| time.as_secs()),
            looked: Instant::now(),
            wanted,
        })
    }

    /// Takes the next event; which choice it changed.
    fn next(&mut self, client: &Client) -> Result<usize, Failed> {
        loop {
            if self.looked.elapsed() >= LOOK {
                self.looked = Instant::now();
                if client.has_gone() {
                    return Err(Failed::Gone);
                }
            }
            let (i, event) = match self.events.recv_timeout(LOOK) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Refusal::new(500, "engine_failed", "the engine has ended").into());
                }
            };
            let Some(choice) = self.choices.get_mut(i).filter(|c| c.finish.is_none()) else {
                continue; // what was drawn behind a string that stops it
            };
            match event {
                Event::Read(read) => {
                    choice.read(read);
                    continue;
                }
                Event::Token(token) => {
                    let echoed = match self.wanted.echo {
                        true => self.wanted.prompts[i].1.as_str(),
                        false => "",
                    };
                    choice.take(self.house, &self.wanted, echoed, token);
                    if choice.finish.is_some() {
                        self.over[i].store(true, Ordering::Relaxed);
                    }
                }
                Event::Over => choice.finish = Some("length"),
                Event::Late => {
                    let text = "the answer took longer than the server allows";
                    return Err(Refusal::new(504, "timeout", text).into());
                }
                Event::Failed(e) => return Err(Refusal::new(500, "engine_failed", e).into()),
            }
            return Ok(i);
        }
    }

    fn is_over(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// Waits for all of it.
    fn collect(&mut self, client: &Client) -> Result<(), Failed> {
        while !self.is_over() {
            self.next(client)?;
        }
        Ok(())
    }

    /// All of it, as one body.
    fn whole(&mut self) -> Value {
        let choices = (0..self.choices.len())
            .map(|i| self.piece(i, false))
            .collect();
        let mut body = self.body(choices, false);
        body["usage"] = self.usage();
        body
    }

    /// Tells it piece by piece.
    fn stream(&mut self, client: &mut Client) -> Result<(), Failed> {
        // until the first token it can still be refused with a status
        let mut changed = self.next(client)?;
        client.begin_stream()?;
        if self.wanted.chat {
            let role = json!({"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null});
            client.event(&self.body(vec![role], true).to_string())?;
        }
        loop {
            let over = self.choices[changed].finish.is_some();
            let piece = self.piece(changed, true);
            let text = if self.wanted.chat {
                &piece["delta"]["content"]
            } else {
                &piece["text"]
            };
            if over || text != "" || !piece["logprobs"].is_null() {
                client.event(&self.body(vec![piece], true).to_string())?;
            }
            if self.is_over() {
                break;
            }
            changed = match self.next(client) {
                Ok(changed) => changed,
                Err(Failed::Refused(refusal)) => {
                    client.event(&refusal.body().to_string())?;
                    return Ok(());
                }
                Err(Failed::Gone) => return Err(Failed::Gone),
            };
        }
        if self.wanted.usage {
            let mut body = self.body(Vec::new(), true);
            body["usage"] = self.usage();
            client.event(&body.to_string())?;
        }
        client.event("[DONE]")?;
        Ok(())
    }

    /// What of a choice was not told yet.
    fn piece(&mut self, i: usize, part: bool) -> Value {
        let choice = &mut self.choices[i];
        let text = choice.news();
        let logprobs = match (self.wanted.logprobs, self.wanted.chat) {
            (None, _) => Value::Null,
            (_, true) => choice.chat_logprobs(self.house),
            (_, false) => choice.completion_logprobs(self.house),
        };
        let mut piece = json!({"index": i, "logprobs": logprobs, "finish_reason": choice.finish});
        match (self.wanted.chat, part) {
            (false, _) => piece["text"] = text.into(),
            (true, true) => piece["delta"] = json!({"content": text}),
            (true, false) => {
                piece["message"] = json!({"role": "assistant", "content": text, "refusal": null});
            }
        }
        piece
    }

    fn body(&self, choices: Vec<Value>, part: bool) -> Value {
        let object = match (self.wanted.chat, part) {
            (true, true) => "chat.completion.chunk",
            (true, false) => "chat.completion",
            (false, _) => "text_completion",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.wanted.model,
            "choices": choices,
        })
    }

    fn usage(&self) -> Value {
        let asked: usize = self.wanted.prompts.iter().map(|(ids, _)| ids.len()).sum();
        let drawn: usize = self.choices.iter().map(|choice| choice.tokens.len()).sum();
        json!({"prompt_tokens": asked, "completion_tokens": drawn, "total_tokens": asked + drawn})
    }
}

impl Drop for Reply<'_> {
    /// Nobody waits for what is not over.
    fn drop(&mut self) {
        self.over
            .iter()
            .for_each(|over| over.store(true, Ordering::Relaxed));
    }
}
