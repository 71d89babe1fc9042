//! HTTP/1.1 as far as a server of JSON wants it: a request's head by httparse, a body of known
//! length, an answer or a stream of events. Connections are kept open but for streams.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::refusal::Refusal;

/// Most bytes of a head, and of a body.
const HEAD: usize = 32 << 10;
const BODY: usize = 16 << 20;
/// How long a client may take to send a request, and an open connection may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for a head, once half of the clients that there may be are there: who says nothing
/// must not keep others out.
const CROWDED: Duration = Duration::from_secs(2);
/// How much of a body that was refused unread is read away, and for how long, so that the client
/// sees the answer before the connection is reset.
const AWAY: usize = 4 << 20;
const LINGER: Duration = Duration::from_secs(2);
/// How often a client that waits looks whether it has become crowded.
const LOOK: Duration = Duration::from_millis(250);

/// A request.
pub struct Asked {
    /// `GET`
    pub method: String,
    /// Without what follows `?`.
    pub path: String,
    /// By name in small letters.
    pub fields: Vec<(String, String)>,
    /// Empty where there is none.
    pub body: Vec<u8>,
    /// Whether the client keeps the connection.
    pub stays: bool,
}

impl Asked {
    /// A field of the head.
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Why there is no request.
pub enum Broken {
    /// The client has gone, or said nothing for too long.
    Closed,
    /// It sent what cannot be taken; the connection ends.
    Refused(Refusal),
}

/// How many clients there are at once.
#[derive(Debug)]
pub struct Room {
    /// Those who are there.
    pub clients: AtomicUsize,
    /// The most.
    pub most: usize,
}

impl Room {
    fn is_crowded(&self) -> bool {
        2 * self.clients.load(Ordering::Relaxed) > self.most
    }
}

/// A client.
pub struct Client {
    stream: TcpStream,
    /// What came beyond the last request.
    ahead: Vec<u8>,
}

impl Client {
    /// Of an accepted connection.
    pub fn new(stream: TcpStream) -> std::io::Result<Client> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client {
            stream,
            ahead: Vec::new(),
        })
    }

    /// The head of the next request, and the length of its body, which [`Client::body`] reads.
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn next(&mut self, room: &Room) -> Result<(Asked, usize), Broken> {
        let began = Instant::now();
        loop {
            if let Some(found) = self.head()? {
                return Ok(found);
            }
            if self.ahead.len() > HEAD {
                let text = format!("the head of a request may have {HEAD} bytes");
                return Err(refused(431, "head_too_large", text));
            }
            let patience = if room.is_crowded() { CROWDED } else { PATIENCE };
            self.more(began + patience)?;
        }
    }

    /// The request with its body.
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn body(&mut self, mut asked: Asked, length: usize) -> Result<Asked, Broken> {
        let until = Instant::now() + PATIENCE;
        let waits = asked.field("expect");
        if length > self.ahead.len()
            && waits.is_some_and(|w| w.eq_ignore_ascii_case("100-continue"))
        {
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            self.stream.write_all(go_on).map_err(|_| Broken::Closed)?;
        }
        while self.ahead.len() < length {
            self.more(until)?;
        }
        let rest = self.ahead.split_off(length);
        asked.body = std::mem::replace(&mut self.ahead, rest);
        Ok(asked)
    }

    /// Reads away what is left of a request that was refused, within bounds.
    pub fn drain(&mut self) {
        let until = Instant::now() + LINGER;
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut read = 0;
        while read < AWAY && self.more(until).is_ok() {
            read += self.ahead.len();
            self.ahead.clear();
        }
    }

    /// The head, if all of it is there, and the length of the body.
    fn head(&mut self) -> Result<Option<(Asked, usize)>, Broken> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        let size = match request.parse(&self.ahead) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(e) => return Err(refused(400, "bad_request", format!("no HTTP request: {e}"))),
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
        let fields = request.headers.iter();
        let asked = Asked {
            method: request.method.unwrap_or_default().to_owned(),
            path: request
                .path
                .unwrap_or_default()
                .split('?')
                .next()
                .unwrap_or_default()
                .to_owned(),
            fields: fields
                .map(|f| (f.name.to_ascii_lowercase(), text(f.value)))
                .collect(),
            body: Vec::new(),
            stays: request.version == Some(1),
        };
        self.ahead.drain(..size);
        let closes = asked
            .field("connection")
            .is_some_and(|c| c.eq_ignore_ascii_case("close"));
        let asked = Asked {
            stays: asked.stays && !closes,
            ..asked
        };
        if asked.field("transfer-encoding").is_some() {
            let text = "a body must come with its length (Content-Length), not in chunks";
            return Err(refused(411, "length_required", text.into()));
        }
        let lengths: Vec<&str> = asked
            .fields
            .iter()
            .filter(|(name, _)| name == "content-length")
            .map(|(_, value)| value.as_str())
            .collect();
        let length = match lengths[..] {
            [] => 0,
            [one] if one.bytes().all(|b| b.is_ascii_digit()) => one.parse().unwrap_or(usize::MAX),
            _ => {
                return Err(refused(
                    400,
                    "bad_request",
                    "Content-Length is no number".into(),
                ));
            }
        };
        if length > BODY {
            let text = format!("a body may have {BODY} bytes, this one has {length}");
            return Err(refused(413, "body_too_large", text));
        }
        Ok(Some((asked, length)))
    }

    fn more(&mut self, until: Instant) -> Result<(), Broken> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(match self.ahead.is_empty() {
                true => Broken::Closed,
                false => refused(408, "timeout", "the request did not come in time".into()),
            });
        }
        let waits = self.stream.set_read_timeout(Some(left.min(LOOK)));
        waits.map_err(|_| Broken::Closed)?;
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(Broken::Closed),
            Ok(count) => {
                self.ahead.extend_from_slice(&piece[..count]);
                Ok(())
            }
            Err(e) if is_wait(&e) => Ok(()),
            Err(_) => Err(Broken::Closed),
        }
    }

    /// Whether the client has gone, asked while it waits for an answer.
    pub fn has_gone(&self) -> bool {
        if self.stream.set_nonblocking(true).is_err() {
            return true;
        }
        let gone = match self.stream.peek(&mut [0]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(e) => !is_wait(&e),
        };
        self.stream.set_nonblocking(false).is_err() || gone
    }

    /// Sends a whole answer.
    ///
    /// # Errors
    /// A client that has gone.
    pub fn answer(&mut self, body: &Value, stays: bool) -> std::io::Result<()> {
        self.send(200, "", body, stays)
    }

    /// Sends a refusal.
    ///
    /// # Errors
    /// A client that has gone.
    pub fn refuse(&mut self, refusal: &Refusal, stays: bool) -> std::io::Result<()> {
        let fields = match (refusal.status, refusal.allow) {
            (503, _) => "Retry-After: 1\r\n".to_owned(),
            (401, _) => "WWW-Authenticate: Bearer\r\n".to_owned(),
            (_, Some(methods)) => format!("Allow: {methods}\r\n"),
            _ => String::new(),
        };
        self.send(refusal.status, &fields, &refusal.body(), stays)
    }

    fn send(
        &mut self,
        status: u16,
        fields: &str,
        body: &Value,
        stays: bool,
    ) -> std::io::Result<()> {
        let body = body.to_string();
        let connection = if stays { "keep-alive" } else { "close" };
        let head = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{fields}Connection: {connection}\r\n\r\n",
            reason(status),
            body.len()
        );
        self.stream.write_all([head, body].concat().as_bytes())
    }

    /// Begins a stream of events, which ends with the connection.
    ///
    /// # Errors
    /// A client that has gone.
    pub fn begin_stream(&mut self) -> std::io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n";
        self.stream.write_all(head.as_bytes())
    }

    /// Sends one event.
    ///
    /// # Errors
    /// A client that has gone.
    pub fn event(&mut self, data: &str) -> std::io::Result<()> {
        self.stream
            .write_all(format!("data: {data}\n\n").as_bytes())
    }
}

fn is_wait(e: &std::io::Error) -> bool {
    let waits = [
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
        ErrorKind::Interrupted,
    ];
    waits.contains(&e.kind())
}

fn refused(status: u16, code: &'static str, message: String) -> Broken {
    Broken::Refused(Refusal::new(status, code, message))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}
