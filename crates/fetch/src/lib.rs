//! Downloads a file from one of several addresses, over HTTPS.
//!
//! The server is trusted for nothing but progress: a file counts as downloaded if the caller's
//! check of its bytes says so. Until then it has a temporary name; then it is renamed. A connection that breaks
//! is tried again from the beginning.
//!
//! `ureq` with `rustls` and `ring` needs nothing installed but the C compiler; `aws-lc` in place of
//! `ring` would take several times as long to build.
#![deny(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use ureq::http::header::CONTENT_LENGTH;

/// Why there is no file. Each message is one line that names it and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io { path: PathBuf, action: &'static str, cause: std::io::Error },
    /// No address delivered the file.
    #[error(
        "{}: not downloaded ({troubles}); check the network and try again, or copy the file there",
        path.display()
    )]
    Download { path: PathBuf, troubles: String },
}

impl Error {
    fn io(path: &Path, action: &'static str, cause: std::io::Error) -> Error {
        Error::Io { path: path.to_path_buf(), action, cause }
    }
}

/// Connections to one server for one file.
const ATTEMPTS: usize = 3;

/// How to download.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a server may send nothing.
    pub idle_timeout: Duration,
    /// How long all of it may take: a server that sends a byte a second is never silent.
    pub timeout: Duration,
    /// A server that sends more sends something else.
    pub most_bytes: u64,
    /// Whether addresses that begin with `http://` are allowed. The check of the bytes finds what was changed
    /// on the way, but everybody on the way sees what is fetched.
    pub without_tls: bool,
    /// Whether to go through the proxy that `HTTPS_PROXY` and the like name.
    pub environment_proxy: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(600),
            most_bytes: 64 << 30,
            without_tls: false,
            environment_proxy: true,
        }
    }
}

/// How far one file is. Reported at its beginning, after each piece, and at its end.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    pub file: &'a str,
    pub bytes: u64,
    /// Bytes of the whole file, once a server has said so.
    pub total_bytes: Option<u64>,
    /// Downloaded and verified; the last report of each file.
    pub done: bool,
}

/// Makes sure that a file is there and right: as it is, or from the first of these addresses that has it.
///
/// # Errors
/// If no address has it ([`Error::Download`]; the message says what became of each), one of them is not
/// allowed, or the folder cannot be written. Nothing is left behind then.
pub fn download(
    path: &Path,
    urls: &[String],
    is_right: &dyn Fn(&Path) -> bool,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut report = |bytes, total_bytes, done| {
        progress(Progress { file: &name, bytes, total_bytes, done });
    };
    let failed = |troubles: String| Error::Download { path: path.to_path_buf(), troubles };
    if let Some(url) = urls.iter().find(|url| !url.starts_with("https://") && !options.without_tls)
    {
        return Err(failed(format!("{url} does not use TLS; --without-tls allows it")));
    }
    if !is_right(path) {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)
            .map_err(|cause| Error::io(folder, "create the folder", cause))?;
        let deadline = Instant::now() + options.timeout;
        let agent = agent(options);
        let mut troubles = Vec::new();
        let mut found = None;
        for url in urls {
            match from_server(&agent, url, folder, is_right, (deadline, options), &mut report) {
                Ok(file) => {
                    found = Some(file);
                    break;
                }
                Err(Trouble::Local(cause)) => return Err(Error::io(path, "write", cause)),
                Err(Trouble::Cut(what) | Trouble::Refused(what)) => {
                    troubles.push(format!("{url}: {what}"));
                }
            }
        }
        let file = found.ok_or_else(|| failed(troubles.join("; ")))?;
        file.persist(path).map_err(|it| Error::io(path, "rename the download to", it.error))?;
    }
    let bytes = path.metadata().map_err(|cause| Error::io(path, "read", cause))?.len();
    report(bytes, Some(bytes), true);
    Ok(())
}

fn agent(options: &Options) -> ureq::Agent {
    let builder = ureq::Agent::config_builder();
    let builder = if options.environment_proxy { builder } else { builder.proxy(None) };
    builder
        .http_status_as_error(false)
        .https_only(!options.without_tls) // after a redirect too
        .accept_encoding("identity") // the file as it is
        .user_agent(concat!("trainmark/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(options.connect_timeout))
        .timeout_recv_response(Some(options.idle_timeout))
        .timeout_per_read(Some(options.idle_timeout))
        .build()
        .into()
}

/// Why one connection did not end with the right file.
enum Trouble {
    /// The connection broke: another may not.
    Cut(String),
    /// This server has no such file, or not the right one.
    Refused(String),
    /// Nothing to do with the server.
    Local(std::io::Error),
}

type Report<'a> = dyn FnMut(u64, Option<u64>, bool) + 'a;

/// The right file, under a temporary name in the folder.
fn from_server(
    agent: &ureq::Agent,
    url: &str,
    folder: &Path,
    is_right: &dyn Fn(&Path) -> bool,
    (deadline, options): (Instant, &Options),
    report: &mut Report,
) -> Result<NamedTempFile, Trouble> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The user's umask decides who else may read it; nobody writes to it, trainers neither.
        builder.permissions(fs::Permissions::from_mode(0o444));
    }
    let mut attempt = 1;
    loop {
        let mut part = builder.prefix(".fetch-").tempfile_in(folder).map_err(Trouble::Local)?;
        match receive(agent, url, &mut part, (deadline, options), report) {
            Ok(()) if is_right(part.path()) => return Ok(part),
            Ok(()) => {
                return Err(Trouble::Refused(
                    "not the right file: its checksum differs".to_owned(),
                ));
            }
            Err(Trouble::Cut(_)) if attempt < ATTEMPTS && Instant::now() < deadline => attempt += 1,
            Err(trouble) => return Err(trouble),
        }
    }
}

/// One connection.
fn receive(
    agent: &ureq::Agent,
    url: &str,
    part: &mut NamedTempFile,
    (deadline, options): (Instant, &Options),
    report: &mut Report,
) -> Result<(), Trouble> {
    let left = deadline.saturating_duration_since(Instant::now());
    let request = agent.get(url).config().timeout_global(Some(left)).build();
    let mut response = request.call().map_err(|error| Trouble::Cut(error.to_string()))?;
    if !response.status().is_success() {
        return Err(Trouble::Refused(response.status().to_string()));
    }
    let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let total = length.and_then(|length| length.parse::<u64>().ok());
    let too_much =
        || Trouble::Refused(format!("the file has more than {} bytes", options.most_bytes));
    if total.is_some_and(|total| total > options.most_bytes) {
        return Err(too_much());
    }
    let mut body = response.body_mut().as_reader();
    let (mut bytes, mut piece) = (0, vec![0; 64 << 10]);
    loop {
        report(bytes, total, false);
        match body.read(&mut piece).map_err(|cause| Trouble::Cut(cause.to_string()))? {
            0 => break,
            read => {
                bytes += read as u64;
                if bytes > options.most_bytes {
                    return Err(too_much());
                }
                part.write_all(&piece[..read]).map_err(Trouble::Local)?;
            }
        }
    }
    match total {
        Some(total) if bytes < total => {
            Err(Trouble::Cut(format!("the connection ended after {bytes} of {total} bytes")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    /// How a mirror answers one request.
    #[derive(Clone, Copy)]
    enum Answer {
        Right,
        Status(&'static str),
        /// Announces all, sends so many bytes, hangs up.
        Cut(usize),
        /// One bit of the middle is wrong.
        Corrupt,
        /// Announces and sends a file without its last ten bytes.
        Short,
        /// Never answers, until the client gives up.
        Silent,
        /// Announces all, and sends a byte every tenth of a second.
        Drips,
    }

    /// A mirror on the loopback interface. Its answers to the first requests are scripted, the
    /// others are `Right`; it counts the requests.
    struct Mirror {
        url: String,
        requests: Arc<Mutex<usize>>,
    }

    impl Mirror {
        fn new(script: &'static [Answer]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/files/", listener.local_addr().unwrap());
            let requests = Arc::new(Mutex::new(0));
            let log = Arc::clone(&requests);
            // Ends with the test's process.
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let Some(path) = read_request(&stream) else { continue };
                    let count = {
                        let mut log = log.lock().unwrap();
                        *log += 1;
                        *log
                    };
                    let answer = script.get(count - 1).copied().unwrap_or(Answer::Right);
                    // The client may hang up whenever it likes.
                    let _ = reply(&mut stream, answer, &path);
                }
            });
            Self { url, requests }
        }

        fn requests(&self) -> usize {
            *self.requests.lock().unwrap()
        }
    }

    fn read_request(stream: &TcpStream) -> Option<String> {
        let mut lines = BufReader::new(stream).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count();
        Some(path)
    }

    fn reply(stream: &mut TcpStream, answer: Answer, path: &str) -> std::io::Result<()> {
        let index = FILES.iter().position(|name| path == format!("/files/{name}")).unwrap();
        let mut file = content(index);
        let mut length = file.len();
        match answer {
            Answer::Status(status) => {
                return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            }
            Answer::Silent => {
                return stream.read(&mut [0]).map(|_| ());
            }
            Answer::Right | Answer::Drips => {}
            Answer::Cut(bytes) => file.truncate(bytes),
            Answer::Corrupt => file[length / 2] ^= 4,
            Answer::Short => {
                length -= 10;
                file.truncate(length);
            }
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
        if matches!(answer, Answer::Drips) {
            for byte in file {
                stream.write_all(&[byte])?;
                std::thread::sleep(Duration::from_millis(100));
            }
            return Ok(());
        }
        stream.write_all(&file)
    }

    const FILES: [&str; 4] = ["one", "two", "three", "four"];

    /// Of one of the files.
    fn content(index: usize) -> Vec<u8> {
        (0..20_000 + index as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 16) as u8).collect()
    }

    fn fetch_files(
        folder: &Path,
        mirrors: &[String],
        options: &Options,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<[PathBuf; 4], Error> {
        let deadline = Instant::now() + options.timeout;
        for (index, name) in FILES.iter().enumerate() {
            let urls: Vec<String> =
                mirrors.iter().map(|mirror| format!("{mirror}{name}")).collect();
            let is_right = |path: &Path| fs::read(path).is_ok_and(|it| it == content(index));
            let left = Options { timeout: deadline - Instant::now(), ..options.clone() };
            download(&folder.join(name), &urls, &is_right, &left, progress)?;
        }
        Ok(FILES.map(|name| folder.join(name)))
    }

    /// Patient enough for a busy machine.
    fn patient() -> Options {
        let long = Duration::from_secs(60);
        Options {
            connect_timeout: long,
            idle_timeout: long,
            without_tls: true,
            environment_proxy: false,
            ..Options::default()
        }
    }

    fn fetch_from(folder: &Path, mirrors: &[&Mirror]) -> Result<[PathBuf; 4], Error> {
        fetch_with(folder, mirrors, &patient())
    }

    fn fetch_with(
        folder: &Path,
        mirrors: &[&Mirror],
        options: &Options,
    ) -> Result<[PathBuf; 4], Error> {
        let mirrors: Vec<String> = mirrors.iter().map(|mirror| mirror.url.clone()).collect();
        fetch_files(folder, &mirrors, options, &mut |_| {})
    }

    fn assert_complete(folder: &Path) {
        for (index, name) in FILES.iter().enumerate() {
            assert_eq!(fs::read(folder.join(name)).unwrap(), content(index), "{name}");
            let rights = folder.join(name).metadata().unwrap().permissions();
            assert!(rights.readonly(), "{name}: trainers may not write it");
        }
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.filter(|name| name.to_string_lossy().starts_with('.')).count(), 0);
    }

    #[test]
    fn four_files_come_verified_and_a_second_call_asks_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(&[]);
        let paths = fetch_from(folder.path(), &[&mirror]).unwrap();
        assert_eq!(paths[3], folder.path().join("four"));
        assert_complete(folder.path());
        fetch_from(folder.path(), &[&mirror]).unwrap();
        assert_eq!(mirror.requests(), 4);
    }

    #[test]
    fn a_connection_that_breaks_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(&[Answer::Cut(100), Answer::Cut(50)]);
        fetch_from(folder.path(), &[&mirror]).unwrap();
        assert_complete(folder.path());
        assert_eq!(mirror.requests(), 6);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_where_the_file_belongs_is_replaced_and_its_target_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("precious");
        fs::write(&target, "precious").unwrap();
        for name in ["one", "one.part"] {
            std::os::unix::fs::symlink(&target, folder.path().join(name)).unwrap();
        }
        fetch_from(folder.path(), &[&Mirror::new(&[])]).unwrap();
        assert_complete(folder.path());
        assert_eq!(fs::read(&target).unwrap(), b"precious");
    }

    #[test]
    fn a_server_that_drips_is_given_up_when_the_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(&[Answer::Drips, Answer::Drips, Answer::Drips]);
        let options = Options { timeout: Duration::from_secs(2), ..patient() };
        let begun = Instant::now();
        assert!(fetch_with(folder.path(), &[&mirror], &options).is_err());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn an_address_without_tls_is_refused_unless_that_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(&[]);
        let options = Options { without_tls: false, ..patient() };
        let error = fetch_with(folder.path(), &[&mirror], &options).unwrap_err().to_string();
        assert!(error.contains("--without-tls"), "{error}");
        assert_eq!(mirror.requests(), 0);
    }

    #[test]
    fn the_next_mirror_stands_in_for_one_that_fails() {
        let script: [&'static [Answer]; 5] = [
            &[Answer::Status("404 Not Found")],
            &[Answer::Status("503 Service Unavailable")],
            &[Answer::Corrupt],
            &[Answer::Short],
            &[Answer::Silent, Answer::Silent, Answer::Silent],
        ];
        for (index, script) in script.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let (bad, good) = (Mirror::new(script), Mirror::new(&[]));
            // The good one must not be taken for a silent one.
            let idle_timeout = Duration::from_secs(if index == 4 { 2 } else { 60 });
            let options = Options { idle_timeout, ..patient() };
            fetch_with(folder.path(), &[&bad, &good], &options).unwrap();
            assert_complete(folder.path());
            let asked = if index == 4 { 6 } else { 4 };
            assert_eq!((bad.requests(), good.requests()), (asked, 1), "script {index}");
        }
    }

    #[test]
    fn when_all_fail_the_error_says_what_each_did() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Mirror::new(&[Answer::Status("404 Not Found")]);
        let dying = Mirror::new(&[Answer::Cut(60), Answer::Cut(0), Answer::Cut(1)]);
        let error = fetch_from(folder.path(), &[&missing, &dying]).unwrap_err().to_string();
        let file = "one";
        assert!(error.starts_with(folder.path().join(file).to_str().unwrap()), "{error}");
        assert!(error.contains(&format!("{}{file}: 404 Not Found; ", missing.url)), "{error}");
        assert!(error.contains(&format!("{}{file}: ", dying.url)) && !error.contains('\n'));
    }

    #[test]
    fn a_wrong_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("four"), content(1)).unwrap();
        fetch_from(folder.path(), &[&Mirror::new(&[])]).unwrap();
        assert_complete(folder.path());
    }

    #[test]
    fn progress_grows_to_the_length_of_the_file_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(&[]);
        let (mirrors, mut reports) = ([mirror.url.clone()], Vec::new());
        fetch_files(folder.path(), &mirrors, &patient(), &mut |now| {
            let index = FILES.iter().position(|name| now.file == *name);
            reports.push((index.unwrap(), now.bytes, now.total_bytes, now.done));
        })
        .unwrap();
        assert!(reports.is_sorted_by_key(|&(index, bytes, _, done)| (index, bytes, done)));
        let lengths: Vec<_> = (0..4).map(|index| content(index).len() as u64).collect();
        assert!(reports.iter().all(|report| report.2 == Some(lengths[report.0])));
        let ends: Vec<_> = reports.iter().filter(|report| report.3).map(|end| end.1).collect();
        assert_eq!(ends, lengths);
    }

    #[test]
    fn tls_is_spoken_and_a_server_that_does_not_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut plain_server = Mirror::new(&[]);
        plain_server.url = plain_server.url.replace("http://", "https://");
        let error = fetch_from(folder.path(), &[&plain_server]).unwrap_err().to_string();
        assert!(error.contains("https://127.0.0.1"), "{error}");
        assert_eq!(plain_server.requests(), 0);
    }
}
