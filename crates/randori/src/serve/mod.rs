//! `randori serve`: players behind OpenAI's HTTP interface, one model name for each iteration of a
//! run. Connections have a thread each, and wait; one thread computes, for all of them at once.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use randori_engine::{Batch, GenerateOptions, KvCache, Player, SlotTokens};
use randori_store::{Manifest, iteration_folder};

use crate::bytes::{shown, unit};
use crate::check::{self, Uses};
use crate::export::{ITERATION, chosen};
use crate::folder;
use crate::memory;
use crate::recipe::Recipe;
use crate::request::{Request, Which};
use crate::session::{Opened, Session};
use crate::stages;

mod ask;
mod choice;
mod connection;
mod desk;
mod house;
mod http;
mod prompts;
mod refusal;
mod route;

use connection::Door;
use house::House;
use http::Room;

/// Most tokens of a sequence where neither the caller nor the model says less.
const CONTEXT: usize = 4096;
/// Most clients at once.
const CLIENTS: usize = 512;
/// How long those who are being answered may take once the server is being stopped.
const GRACE: Duration = Duration::from_secs(30);

/// How players are served.
#[derive(Clone, Debug)]
pub struct Serve {
    /// The address that is listened at.
    pub host: String,
    /// 0: any that is free.
    pub port: u16,
    /// What clients must show; it must be there where the address is not the loopback's.
    pub key: Option<String>,
    /// Sequences that are computed at once; `generate.batch` of the recipe where it is not given.
    pub slots: Option<usize>,
    /// Most tokens of prompt and answer together; the model's window, up to 4096, where it is not
    /// given.
    pub context: Option<usize>,
    /// Most sequences that wait for a slot.
    pub queue: usize,
    /// Time that an answer may take, waiting included.
    pub time: Duration,
}

/// Serves the players of `request` until [`Watch::stops`](crate::Watch::stops) says so.
///
/// # Errors
/// Whatever is wrong with recipe, plugins, model or adapter; an address that is another machine's,
/// is taken, or has no key; memory that is not enough for the slots.
pub fn serve(request: &Request, how: &Serve) -> Result<()> {
    let listener = listen(how)?;
    let (recipe, last) = folder::recipe(request)?;
    let players = players(request, &recipe, last)?;
    folder::say_game(request, &recipe)?;
    let (_, first) = &players[0];
    let host = check::recipe(&recipe, request, first, &Uses::TALKER)?;
    let seed = folder::game_seed(request, &recipe)?;
    let opened = Opened::of(request, recipe, host)?;
    let session = opened.load(first.clone())?;
    let (models, loaded) = load(&session, players)?;
    let usual = stages::generation(&session, seed, 0, 0);
    let slots = how.slots.unwrap_or(usual.slots);
    let context = context(how, usual.window)?;
    let memory = room(&session, &loaded[0], slots, context)?;
    let batch = Batch::new(loaded, slots, context)?;
    let (jobs, asked) = channel();
    let waiting: Arc<AtomicUsize> = Arc::default();
    let counted = waiting.clone();
    thread::spawn(move || desk::run(batch, slots, &asked, &counted));
    let address = listener.local_addr()?;
    let names: Vec<&str> = models.iter().map(|(name, _)| name.as_str()).collect();
    let (names, watch) = (names.join(", "), request.watch.clone());
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let door = Arc::new(Door {
        house: house(
            session,
            models,
            usual,
            context,
            since.map_or(0, |t| t.as_secs()),
        ),
        key: how.key.clone(),
        loopback: address.ip().is_loopback(),
        queue: how.queue,
        time: how.time,
        waiting,
        running: AtomicUsize::new(0),
        closed: Default::default(),
        room: Room {
            clients: AtomicUsize::new(0),
            most: CLIENTS,
        },
        count: Default::default(),
        jobs,
    });
    watch.say(format!("  {:<38} {names}", "models"));
    watch.say(format!(
        "  {:<38} {slots} of {context} tokens, {memory}",
        "slots"
    ));
    watch.serves(true);
    result!(watch, "listening at http://{address}/v1");
    let taker = door.clone();
    thread::spawn(move || take(&listener, &taker));
    while !watch.stops() {
        thread::sleep(Duration::from_millis(50));
    }
    end(&door, address);
    watch.serves(false);
    Ok(())
}

/// Takes no more requests, and waits a while for those that are being answered.
fn end(door: &Door, address: SocketAddr) {
    door.closed.store(true, Ordering::Relaxed);
    let until = Instant::now() + GRACE;
    while door.running.load(Ordering::Relaxed) > 0 && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    drop(TcpStream::connect(address)); // wakes who takes clients
}

/// The players by name; what has two names is there once.
fn load(
    session: &Session,
    players: Vec<(String, Vec<PathBuf>)>,
) -> Result<(Vec<(String, usize)>, Vec<Player>)> {
    let (mut models, mut loaded) = (Vec::new(), Vec::new());
    let mut stacks: Vec<Vec<PathBuf>> = Vec::new();
    for (name, stack) in players {
        let known = stacks.iter().position(|own| *own == stack);
        let number = known.unwrap_or(stacks.len());
        if known.is_none() {
            loaded.push(session.player_of(&stack)?);
            stacks.push(stack);
        }
        models.push((name, number));
    }
    Ok((models, loaded))
}

/// Takes clients, each in a thread of its own. Who is one too many is turned away: those who say
/// nothing are sent off soon then.
fn take(listener: &TcpListener, door: &Arc<Door>) {
    for stream in listener.incoming() {
        if door.closed.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else {
            thread::sleep(Duration::from_millis(20)); // no more files may be open, say
            continue;
        };
        let clients = &door.room.clients;
        if clients.fetch_add(1, Ordering::Relaxed) >= door.room.most {
            clients.fetch_sub(1, Ordering::Relaxed);
            continue; // closes it
        }
        let of_thread = door.clone();
        let name = "client".to_owned();
        let begun = thread::Builder::new().name(name).spawn(move || {
            connection::serve(&of_thread, stream);
            of_thread.room.clients.fetch_sub(1, Ordering::Relaxed);
        });
        if begun.is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Listens, before anything is loaded: what is refused is refused at once.
fn listen(how: &Serve) -> Result<TcpListener> {
    let place = format!("--host {} --port {}", how.host, how.port);
    if how.slots == Some(0) || how.queue == 0 {
        bail!("--slots and --queue must be at least 1");
    }
    let listener = TcpListener::bind((how.host.as_str(), how.port)).context(place)?;
    let address = listener.local_addr()?.ip();
    match how.key.as_deref() {
        Some("") => bail!("the key must not be empty (--api-key, RANDORI_API_KEY)"),
        None if !address.is_loopback() => bail!(
            "--host {}: {address} can be reached from elsewhere, so a key must be given: RANDORI_API_KEY or --api-key",
            how.host
        ),
        _ => Ok(listener),
    }
}

/// Names, and what each has learnt; the first is the one that `chat` would talk with.
fn players(
    request: &Request,
    recipe: &Recipe,
    last: Vec<PathBuf>,
) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let name = &recipe.run.name;
    let (stack, game) = chosen(request, recipe, last.clone(), None, ITERATION)?;
    let mut all = vec![(name.clone(), stack)];
    let Some((game, _)) = game else {
        return Ok(all);
    };
    let manifest = Manifest::read(&game)?.unwrap_or_default();
    let finished = (0..).take_while(|t| manifest.done(&iteration_folder(*t), "policy").is_some());
    let iterations = finished.map(Which::Iteration);
    for which in [Which::Start].into_iter().chain(iterations) {
        let (stack, _) = chosen(request, recipe, last.clone(), Some(which), ITERATION)?;
        let place = match which {
            Which::Start => "start".to_owned(),
            Which::Iteration(t) => iteration_folder(t),
        };
        all.push((format!("{name}:{place}"), stack));
    }
    Ok(all)
}

/// Most tokens of a sequence.
fn context(how: &Serve, window: usize) -> Result<usize> {
    match how.context {
        Some(asked) if asked > window || asked < 2 => {
            bail!("--context must be from 2 to {window}, the model's window, got {asked}")
        }
        Some(asked) => Ok(asked),
        None => Ok(window.min(CONTEXT)),
    }
}

/// What the slots take at their longest; refused where it is not free.
fn room(session: &Session, player: &Player, slots: usize, context: usize) -> Result<String> {
    let mut one = KvCache::with_room(player, &[context]);
    // where the room is, and that passes run at all, is known after a first one
    player.step(
        &mut one,
        &[SlotTokens {
            slot: 0,
            tokens: &[0],
        }],
    )?;
    let each = one.bytes() as u64;
    drop(one);
    let all = each.saturating_mul(slots as u64);
    let free = memory::at_hand(session.recipe.model.device);
    let limit = memory::planned(free);
    if all > limit {
        bail!(
            "{slots} slots of {context} tokens take {} {}, and {} {} may be used: at most {} fit (--slots, --context)",
            shown(all, all),
            unit(all),
            shown(limit, limit),
            unit(limit),
            limit / each.max(1)
        );
    }
    Ok(format!("{} {} at most", shown(all, all), unit(all)))
}

fn house(
    session: Session,
    models: Vec<(String, usize)>,
    usual: GenerateOptions,
    context: usize,
    since: u64,
) -> House {
    let setting = session.setting;
    House {
        system: setting.recipe.data.system.clone(),
        tokenizer: setting.tokenizer,
        host: setting.host,
        models,
        usual,
        context,
        since,
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test fails by panicking"
    )]
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use randori_engine::Asked;

    use super::desk::{Event, Job, Seat};
    use super::*;

    fn demo() -> Session {
        let request = Request {
            recipe: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/demo.toml")),
            linked: vec![
                &randori_plugin_llama::PLUGIN,
                &randori_plugin_losses::PLUGIN,
                &randori_plugin_sampling::PLUGIN,
            ],
            ..Request::default()
        };
        let (recipe, stack) = folder::recipe(&request).unwrap();
        let host = check::recipe(&recipe, &request, &stack, &Uses::TALKER).unwrap();
        let opened = Opened::of(&request, recipe, host).unwrap();
        opened.load(stack).unwrap()
    }

    /// There is one slot, and whoever has it would keep it for 200 tokens.
    #[test]
    fn a_client_that_has_gone_or_waits_too_long_leaves_its_slot() {
        let session = demo();
        let usual = stages::generation(&session, 1, 0, 0);
        let batch = Batch::new(vec![session.player().unwrap()], 1, 250).unwrap();
        let (jobs, asked) = channel();
        let waiting: Arc<AtomicUsize> = Arc::default();
        let counted = waiting.clone();
        let computes = thread::spawn(move || desk::run(batch, 1, &asked, &counted));
        let (to, events) = channel();
        let job = |number, tokens, gone: &Arc<AtomicBool>, time| Job {
            asked: Asked {
                player: 0,
                prompt: vec![1, 2, 3],
                samplers: Vec::new(),
                options: GenerateOptions {
                    max_new_tokens: tokens,
                    min_new_tokens: tokens,
                    ..usual.clone()
                },
                top: 0,
            },
            reads: false,
            client: Seat {
                number,
                to: to.clone(),
                gone: gone.clone(),
                until: Instant::now() + time,
            },
        };
        let (goes, stays) = (Arc::default(), Arc::default());
        let send = |job| {
            waiting.fetch_add(1, Ordering::Relaxed);
            jobs.send(job).unwrap();
        };
        let long = Duration::from_secs(600);
        send(job(0, 200, &goes, long));
        send(job(1, 1, &stays, long));
        send(job(2, 1, &stays, Duration::ZERO));
        let (mut of_first, mut late) = (0, false);
        loop {
            match events.recv().unwrap() {
                (0, Event::Token(_)) => of_first += 1,
                (1, Event::Token(token)) => break assert_eq!(token.last, Some(false)),
                (2, Event::Late) => late = true,
                (number, _) => panic!("sequence {number} was told something else"),
            }
            goes.store(of_first > 0, Ordering::Relaxed);
        }
        assert!(late && (1..200).contains(&of_first), "{of_first} tokens");
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
        drop(jobs);
        computes.join().unwrap();
    }
}
