//! Asks a server over HTTP, and asks again where that may help. Unaware of package indices and of wheels.

use std::io::{self, Read};
use std::ops::Range;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, ResponseExt as _};

/// For a name to be found and a connection to be made.
const CONNECT: Duration = Duration::from_secs(20);

/// For a server to begin its answer, and between two pieces of it.
const SILENCE: Duration = Duration::from_secs(60);

/// What helps where a server cannot be reached or gives something else.
const REMEDY: &str = "behind a proxy set `HTTPS_PROXY`; `--from` takes a mirror of the package index or a folder with the wheels; or build \
                      with the PyTorch of an existing Python, `LIBTORCH_USE_PYTORCH=1`";

/// How often and after which pauses a server is asked again.
#[derive(Clone, Debug)]
pub struct Patience(pub Vec<Duration>);

impl Default for Patience {
    fn default() -> Self {
        Self([1, 3, 9].map(Duration::from_secs).to_vec())
    }
}

/// Which way leads to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `HTTPS_PROXY` and its like decide.
    Environment,
    Direct,
}

/// A server does not give what it is asked for.
#[derive(Debug, thiserror::Error)]
#[error("`{url}`: {problem}; {REMEDY}")]
pub struct NetworkTrouble {
    /// Without the password that may be in it.
    pub url: String,
    pub problem: String,
}

/// Why an attempt failed.
pub enum Failure {
    /// It may be better in a moment.
    Passing(String),
    Lasting(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Passing(error.to_string())
    }
}

/// A page of an index.
pub struct Page {
    /// After redirections: what the links in it are relative to.
    pub url: String,
    pub content_type: String,
    pub text: String,
}

/// Asks servers by one route, with one patience, and logs in to at most one of them.
pub struct Client {
    agent: Agent,
    patience: Patience,
    credentials: Option<Credentials>,
}

/// For one server only.
struct Credentials {
    server: String,
    header: String,
}

impl Client {
    /// The system's certificate store decides whom to trust: companies put their own authorities there.
    pub fn new(patience: Patience, route: Route) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("loramill/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build());
        if route == Route::Direct {
            config = config.proxy(None);
        }
        Self { agent: config.build().into(), patience, credentials: None }
    }

    /// Takes `user:password@` out of the address of an index, as pip does, and shows them to that server alone.
    pub fn log_in(&mut self, url: &str) -> String {
        let Some((user, bare)) = split_user(url) else { return url.to_string() };
        let header = format!("Basic {}", base64(&percent_decoded(user)));
        self.credentials = Some(Credentials { server: server_of(&bare).to_string(), header });
        bare
    }

    /// The text at `url`, of at most `limit` bytes.
    ///
    /// # Errors
    /// `NetworkTrouble`.
    pub fn page(&self, url: &str, accept: &str, limit: u64) -> Result<Page> {
        self.patiently(url, || {
            let mut response = self.ask(url, None, Some(accept))?;
            let content_type = header_text(&response, header::CONTENT_TYPE);
            let mut bytes = Vec::new();
            response.body_mut().as_reader().take(limit + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > limit {
                return Err(Failure::Lasting(format!("the page has more than {limit} bytes: it is none of an index")));
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Ok(Page { url: response.get_uri().to_string(), content_type, text })
        })
    }

    /// Does `attempt`, and does it again after what may pass.
    ///
    /// # Errors
    /// `NetworkTrouble`: the last failure, or the first that lasts.
    pub fn patiently<T>(&self, url: &str, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut pauses = self.patience.0.iter();
        let problem = loop {
            match (attempt(), pauses.next()) {
                (Ok(done), _) => return Ok(done),
                (Err(Failure::Passing(_)), Some(pause)) => thread::sleep(*pause),
                (Err(Failure::Passing(problem)), None) => {
                    break format!("{problem}, in each of {} attempts", self.patience.0.len() + 1);
                }
                (Err(Failure::Lasting(problem)), _) => break problem,
            }
        };
        Err(NetworkTrouble { url: shown(url), problem }.into())
    }

    /// Sends one request; only an answer with content is one.
    ///
    /// # Errors
    /// The server is not reached, or refuses.
    pub fn ask(&self, url: &str, range: Option<Range<u64>>, accept: Option<&str>) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        if let Some(range) = range {
            request = request.header(header::RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        }
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        if let Some(credentials) = self.credentials.as_ref().filter(|known| known.server == server_of(url)) {
            request = request.header(header::AUTHORIZATION, &credentials.header);
        }
        let response = request.call().map_err(failure)?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            status => {
                let passes = status.is_server_error()
                    || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY);
                let problem = format!("the server answers {status}");
                Err(if passes { Failure::Passing(problem) } else { Failure::Lasting(problem) })
            }
        }
    }
}

fn failure(error: ureq::Error) -> Failure {
    let lasts = match &error {
        // A certificate that is not trusted arrives as one of these.
        ureq::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        ureq::Error::Timeout(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => false,
        _ => true,
    };
    let problem = match error {
        ureq::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    if lasts { Failure::Lasting(problem) } else { Failure::Passing(problem) }
}

/// A header's text, empty if there is none.
pub fn header_text(response: &Response<Body>, name: header::HeaderName) -> String {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string()
}

/// An address without the password that may be in it.
pub fn shown(url: &str) -> String {
    split_user(url).map_or_else(|| url.to_string(), |(_, bare)| bare)
}

/// `user:password`, and the address without them.
fn split_user(url: &str) -> Option<(&str, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    Some((user, format!("{scheme}://{}", &rest[user.len() + 1..])))
}

/// `https://host:port`
fn server_of(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    &url[..end]
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).filter(|_| *first == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// As RFC 4648 writes it, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize] as char;
            text.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shown_to_its_server_and_to_nobody_else() {
        let mut client = Client::new(Patience(Vec::new()), Route::Direct);
        let bare = client.log_in("https://me:p%40ss@mirror.example:8443/simple");
        assert_eq!(bare, "https://mirror.example:8443/simple");
        let credentials = client.credentials.expect("there are some");
        // Python: base64.b64encode(b"me:p@ss").
        assert_eq!(
            (credentials.server.as_str(), credentials.header.as_str()),
            ("https://mirror.example:8443", "Basic bWU6cEBzcw==")
        );
        assert_ne!(server_of("https://mirror.example:8443.evil.example/x"), credentials.server);
        assert_eq!(shown("https://me:secret@host/x?y=a@b"), "https://host/x?y=a@b");
        assert_eq!(shown("https://host/a@b"), "https://host/a@b");
    }

    #[test]
    fn base64_is_padded() {
        // RFC 4648, section 10.
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
