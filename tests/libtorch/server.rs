//! A server on the loopback that does what servers do: gives ranges or not, cuts connections, refuses.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// How a file is served.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Answers a request for a range with the whole.
    pub no_ranges: bool,
    /// So many answers end in the middle.
    pub cuts: usize,
    /// From this answer on, counted from 0, it says 503.
    pub breaks_down_at: Option<usize>,
}

/// What was asked: `GET` path, its range, its authorization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    pub range: Option<(u64, u64)>,
    pub authorization: Option<String>,
}

struct Served {
    content_type: &'static str,
    bytes: Vec<u8>,
    manner: Manner,
    answers: usize,
}

#[derive(Clone)]
pub struct Server {
    port: u16,
    files: Arc<Mutex<BTreeMap<String, Served>>>,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let server = Self { port, files: Arc::default(), log: Arc::default() };
        let answering = server.clone();
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = answering.clone();
                thread::spawn(move || server.answer(stream));
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn put(&self, path: &str, content_type: &'static str, bytes: &[u8], manner: Manner) {
        let served = Served { content_type, bytes: bytes.to_vec(), manner, answers: 0 };
        self.files.lock().expect("no panic").insert(path.to_string(), served);
    }

    /// What was asked since the last time.
    pub fn take_log(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.log.lock().expect("no panic"))
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines().map_while(Result::ok);
        let Some(first) = lines.next() else { return };
        let mut asked = Asked { path: first.split(' ').nth(1).unwrap_or_default().to_string(), range: None, authorization: None };
        for line in lines.take_while(|line| !line.is_empty()) {
            let Some((name, value)) = line.split_once(": ") else { continue };
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    let (start, end) = value.trim_start_matches("bytes=").split_once('-').expect("a range");
                    asked.range = Some((start.parse().expect("a number"), end.parse().expect("a number")));
                }
                "authorization" => asked.authorization = Some(value.to_string()),
                _ => {}
            }
        }
        self.log.lock().expect("no panic").push(asked.clone());
        // A client that goes away early is no failure of the server.
        let _ = stream.write_all(&self.reply(&asked));
    }

    fn reply(&self, asked: &Asked) -> Vec<u8> {
        let mut files = self.files.lock().expect("no panic");
        let Some(served) = files.get_mut(&asked.path) else {
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
        };
        let number = served.answers;
        served.answers += 1;
        if served.manner.breaks_down_at.is_some_and(|from| number >= from) {
            return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
        }
        let all = served.bytes.len();
        let (status, range, body) = match asked.range.filter(|_| !served.manner.no_ranges) {
            Some((start, end)) => {
                let (start, end) = (start as usize, (end as usize + 1).min(all));
                let range = format!("Content-Range: bytes {start}-{}/{all}\r\n", end - 1);
                ("206 Partial Content", range, &served.bytes[start..end])
            }
            None => ("200 OK", String::new(), &served.bytes[..]),
        };
        let mut reply = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{range}Connection: close\r\n\r\n",
            served.content_type,
            body.len()
        )
        .into_bytes();
        // A probe of one byte cannot be cut.
        if served.manner.cuts > 0 && body.len() > 1 {
            served.manner.cuts -= 1;
            reply.extend(&body[..body.len() / 2]);
        } else {
            reply.extend(body);
        }
        reply
    }
}
