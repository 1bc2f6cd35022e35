//! Downloads MNIST: four compressed files from public mirrors, over HTTPS.
//!
//! What a server says is believed about nothing but progress: a file counts as downloaded when its
//! decompressed bytes have the SHA-256 of MNIST ([`MNIST_SHA256`]). Until then it is called
//! `NAME.gz.part`, from where a later call goes on (HTTP range requests, RFC 9110 section 14); then
//! it is renamed. Mirrors compress differently, so a part that one began and another finished may be
//! wrong: it is thrown away and the file fetched from its beginning.
//!
//! `ureq` with `rustls` and `ring` needs nothing installed but the C compiler; `aws-lc` in place of
//! `ring` would take several times as long to build.

use crate::identity::{FILES, KINDS, MNIST_SHA256};
use crate::idx::{self, Kind};
use crate::{Error, identity};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};

/// Folders on the web that hold the four files, tried in this order.
pub const MIRRORS: [&str; 2] = [
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
];

/// A compressed file is about 10 MB at most; a server that sends more sends something else.
const MAX_BYTES: u64 = 64 << 20;
/// Connections to one mirror for one file, each going on where the last was cut.
const ATTEMPTS: usize = 4;

/// How to download.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folders on the web, tried in this order; each URL ends in a slash, or is given one.
    pub mirrors: Vec<String>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a server may send nothing.
    pub idle_timeout: Duration,
    /// Whether to go through the proxy that `HTTPS_PROXY` and the like name.
    pub environment_proxy: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mirrors: MIRRORS.map(str::to_owned).to_vec(),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            environment_proxy: true,
        }
    }
}

/// How far one file is. Reported at its beginning, after each piece, and at its end.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file's name, and which of the four it is, from 0.
    pub file: &'a str,
    pub index: usize,
    /// Bytes that are here, those of an earlier call included.
    pub bytes: u64,
    /// Bytes of the whole file, once a server has said so.
    pub total_bytes: Option<u64>,
    /// Downloaded and verified; the last report of each file.
    pub done: bool,
}

/// Makes sure that `directory` has MNIST's four files, verified, and returns their names.
///
/// Files that are there and right are kept; those that are there and wrong are replaced. Two
/// processes that do it at once wait for each other.
///
/// # Errors
/// If no mirror has a file ([`Error::Download`]; the message says what each mirror did), or the
/// folder cannot be written. What was downloaded so far stays and is not downloaded again.
pub fn fetch(
    directory: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<[PathBuf; 4], Error> {
    fetch_files(directory, &MNIST_SHA256, options, progress)
}

fn fetch_files(
    directory: &Path,
    sha256: &[&str; 4],
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<[PathBuf; 4], Error> {
    fs::create_dir_all(directory)
        .map_err(|cause| Error::io(directory, "create the folder", cause))?;
    let lock_path = directory.join(".fetch.lock");
    let lock = File::create(&lock_path).map_err(|cause| Error::io(&lock_path, "write", cause))?;
    // Released when the file is closed. Without it two processes would mix their parts, and the
    // checksum would say so.
    let _ = lock.lock();

    let agent = agent(options);
    let mut paths = FILES.map(|name| directory.join(format!("{name}.gz")));
    for (index, path) in paths.iter_mut().enumerate() {
        let name = format!("{}.gz", FILES[index]);
        let mut transfer = Transfer {
            agent: &agent,
            part: directory.join(format!("{name}.part")),
            kind: KINDS[index],
            sha256: sha256[index],
            report: &mut |bytes, total_bytes, done| {
                progress(Progress { file: &name, index, bytes, total_bytes, done });
            },
        };
        transfer.complete(path, &options.mirrors)?;
    }
    Ok(paths)
}

fn agent(options: &Options) -> ureq::Agent {
    let builder = ureq::Agent::config_builder();
    let builder = if options.environment_proxy { builder } else { builder.proxy(None) };
    builder
        .http_status_as_error(false)
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
    /// It may go on from what is there: the connection broke.
    Cut(String),
    /// This mirror has no such file, or not the right one.
    Refused(String),
    /// Nothing to do with the mirror.
    Local(Error),
}

/// One file on its way.
struct Transfer<'a> {
    agent: &'a ureq::Agent,
    part: PathBuf,
    kind: Kind,
    sha256: &'a str,
    report: &'a mut dyn FnMut(u64, Option<u64>, bool),
}

impl Transfer<'_> {
    /// Brings the file to `path` from the first mirror that has it.
    fn complete(&mut self, path: &Path, mirrors: &[String]) -> Result<(), Error> {
        if self.is_right(path) {
            return self.finish(path);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut troubles = Vec::new();
        for mirror in mirrors {
            let url = format!("{}/{name}", mirror.trim_end_matches('/'));
            match self.fill_from(&url) {
                Ok(()) => {
                    fs::rename(&self.part, path)
                        .map_err(|cause| Error::io(path, "rename the download to", cause))?;
                    return self.finish(path);
                }
                Err(Trouble::Local(error)) => return Err(error),
                Err(Trouble::Cut(what) | Trouble::Refused(what)) => {
                    troubles.push(format!("{url}: {what}"));
                }
            }
        }
        let path = path.to_path_buf();
        Err(Error::Download { path, troubles: troubles.join("; ") })
    }

    fn finish(&mut self, path: &Path) -> Result<(), Error> {
        let bytes = path.metadata().map_err(|cause| Error::io(path, "read", cause))?.len();
        (self.report)(bytes, Some(bytes), true);
        Ok(())
    }

    /// Whether a file, decompressed, is the one that is wanted.
    fn is_right(&self, path: &Path) -> bool {
        idx::read(path, self.kind).is_ok_and(|plain| identity::sha256(&plain) == self.sha256)
    }

    /// Fills the part from one mirror until it is the right file.
    fn fill_from(&mut self, url: &str) -> Result<(), Trouble> {
        let mut last = Trouble::Refused("no attempt".to_owned());
        for _ in 0..ATTEMPTS {
            let before = self.part_bytes();
            match self.receive(url, before) {
                Ok(()) if self.is_right(&self.part) => return Ok(()),
                Ok(()) => {
                    self.discard()?;
                    last = Trouble::Refused("the file is not MNIST's: wrong checksum".to_owned());
                    // What came from elsewhere may have been at fault, so once more as a whole.
                    if before == 0 {
                        return Err(last);
                    }
                }
                // Once more only if it got further.
                Err(Trouble::Cut(what)) if self.part_bytes() > before => last = Trouble::Cut(what),
                Err(trouble) => return Err(trouble),
            }
        }
        Err(last)
    }

    fn part_bytes(&self) -> u64 {
        self.part.metadata().map_or(0, |metadata| metadata.len())
    }

    fn discard(&self) -> Result<(), Trouble> {
        match fs::remove_file(&self.part) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(Trouble::Local(Error::io(&self.part, "remove", cause)))
            }
            _ => Ok(()),
        }
    }

    /// One connection: appends to the part what comes after its `have` bytes, or replaces the part
    /// if the server sends all.
    fn receive(&mut self, url: &str, have: u64) -> Result<(), Trouble> {
        let mut request = self.agent.get(url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let mut response = request.call().map_err(|error| Trouble::Cut(error.to_string()))?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let (from, total) = match response.status() {
            StatusCode::OK => (0, length),
            StatusCode::PARTIAL_CONTENT => match header(CONTENT_RANGE).and_then(parse_range) {
                Some((first, total)) if first == have => (have, total),
                _ if have > 0 => {
                    self.discard()?;
                    return self.receive(url, 0);
                }
                _ => return Err(Trouble::Refused("a part that was not asked for".to_owned())),
            },
            // More is here than the server has: all of it, or something else.
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => return Ok(()),
            status => return Err(Trouble::Refused(status.to_string())),
        };
        if total.is_some_and(|total| total > MAX_BYTES) {
            return Err(Trouble::Refused(format!("a file of more than {MAX_BYTES} bytes")));
        }
        self.append(response.body_mut().as_reader(), from, total)
    }

    fn append(
        &mut self,
        mut body: impl Read,
        from: u64,
        total: Option<u64>,
    ) -> Result<(), Trouble> {
        let mut open = OpenOptions::new();
        open.create(true).write(true).truncate(from == 0).append(from > 0);
        let failed = |cause| Trouble::Local(Error::io(&self.part, "write", cause));
        let mut part = open.open(&self.part).map_err(failed)?;
        let mut bytes = from;
        let mut piece = vec![0; 64 << 10];
        loop {
            (self.report)(bytes, total, false);
            let read = body.read(&mut piece).map_err(|cause| Trouble::Cut(cause.to_string()))?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
            if bytes > MAX_BYTES {
                return Err(Trouble::Refused(format!("a file of more than {MAX_BYTES} bytes")));
            }
            part.write_all(&piece[..read]).map_err(failed)?;
        }
        match total {
            Some(total) if bytes < total => {
                Err(Trouble::Cut(format!("the connection ended after {bytes} of {total} bytes")))
            }
            _ => Ok(()),
        }
    }
}

/// First byte and length of the whole, from `bytes 100-199/200`.
fn parse_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PIXELS;
    use flate2::{Compression, write::GzEncoder};
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    /// How a mirror answers one request.
    #[derive(Clone, Copy)]
    enum Answer {
        /// As it should, ranges included.
        Right,
        /// All from the beginning, whatever was asked for.
        NoRanges,
        Status(&'static str),
        /// Announces all, sends so many bytes, hangs up.
        Cut(usize),
        /// One bit of the middle is wrong.
        Corrupt,
        /// Announces and sends a file without its last ten bytes.
        Short,
        /// Never answers, until the client gives up.
        Silent,
    }

    /// A mirror on the loopback interface. Its answers to the first requests are scripted, the
    /// others are `Right`; it keeps the beginning of each request's range.
    struct Mirror {
        url: String,
        requests: Arc<Mutex<Vec<Option<usize>>>>,
    }

    impl Mirror {
        fn new(level: u32, script: &'static [Answer]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/mnist/", listener.local_addr().unwrap());
            let requests = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&requests);
            // Ends with the test's process.
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let Some((path, from)) = read_request(&stream) else { continue };
                    let count = {
                        let mut log = log.lock().unwrap();
                        log.push(from);
                        log.len()
                    };
                    let answer = script.get(count - 1).copied().unwrap_or(Answer::Right);
                    // The client may hang up whenever it likes.
                    let _ = reply(&mut stream, answer, &path, from, level);
                }
            });
            Self { url, requests }
        }

        fn ranges(&self) -> Vec<Option<usize>> {
            self.requests.lock().unwrap().clone()
        }
    }

    fn read_request(stream: &TcpStream) -> Option<(String, Option<usize>)> {
        let mut lines = BufReader::new(stream).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        let mut from = None;
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().ok();
            }
        }
        Some((path, from))
    }

    fn reply(
        stream: &mut TcpStream,
        answer: Answer,
        path: &str,
        from: Option<usize>,
        level: u32,
    ) -> std::io::Result<()> {
        let index = FILES.iter().position(|name| path == format!("/mnist/{name}.gz")).unwrap();
        let mut file = compressed(index, level);
        let length = file.len();
        let mut head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}");
        match answer {
            Answer::Status(status) => {
                return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            }
            Answer::Silent => {
                return stream.read(&mut [0]).map(|_| ());
            }
            Answer::Right if from.is_some_and(|from| from >= length) => {
                head = "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0".to_owned();
                file.clear();
            }
            Answer::Right | Answer::Cut(_) => {
                if let Some(from) = from {
                    let rest = length - from;
                    head = format!(
                        "HTTP/1.1 206 Partial Content\r\nContent-Length: {rest}\r\n\
                         Content-Range: bytes {from}-{}/{length}",
                        length - 1
                    );
                    file.drain(..from);
                }
                if let Answer::Cut(bytes) = answer {
                    file.truncate(bytes);
                }
            }
            Answer::NoRanges => {}
            Answer::Corrupt => file[length / 2] ^= 4,
            Answer::Short => {
                head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}", length - 10);
                file.truncate(length - 10);
            }
        }
        write!(stream, "{head}\r\nConnection: close\r\n\r\n")?;
        stream.write_all(&file)
    }

    /// One of four small files that stand for MNIST's: plain.
    fn plain(index: usize) -> Vec<u8> {
        let count = 40 + index;
        // Digits in no order, so that they do not compress to nothing.
        let digit =
            |position: usize| ((position as u32).wrapping_mul(2_654_435_761) >> 16) as u8 % 10;
        let bytes = if KINDS[index] == Kind::Images { count * PIXELS } else { count };
        [KINDS[index].header(count), (0..bytes).map(digit).collect()].concat()
    }

    fn compressed(index: usize, level: u32) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(&plain(index)).unwrap();
        encoder.finish().unwrap()
    }

    /// Patient enough for a busy machine.
    fn fetch_from(folder: &Path, mirrors: &[&Mirror]) -> Result<[PathBuf; 4], Error> {
        fetch_within(folder, mirrors, Duration::from_secs(60))
    }

    fn fetch_within(
        folder: &Path,
        mirrors: &[&Mirror],
        idle_timeout: Duration,
    ) -> Result<[PathBuf; 4], Error> {
        let options = Options {
            mirrors: mirrors.iter().map(|mirror| mirror.url.clone()).collect(),
            connect_timeout: Duration::from_secs(60),
            idle_timeout,
            environment_proxy: false,
        };
        let sha256: [String; 4] = std::array::from_fn(|index| identity::sha256(&plain(index)));
        fetch_files(folder, &sha256.each_ref().map(String::as_str), &options, &mut |_| {})
    }

    fn assert_complete(folder: &Path) {
        for (index, name) in FILES.iter().enumerate() {
            let path = folder.join(format!("{name}.gz"));
            assert_eq!(idx::read(&path, KINDS[index]).unwrap()[..], plain(index), "{name}");
        }
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let parts = names.filter(|name| name.to_string_lossy().ends_with(".part")).count();
        assert_eq!(parts, 0);
    }

    #[test]
    fn four_files_come_verified_and_a_second_call_asks_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(6, &[]);
        let paths = fetch_from(folder.path(), &[&mirror]).unwrap();
        assert_eq!(paths[3], folder.path().join("t10k-labels-idx1-ubyte.gz"));
        assert_complete(folder.path());
        fetch_from(folder.path(), &[&mirror]).unwrap();
        assert_eq!(mirror.ranges(), [None; 4]);
    }

    #[test]
    fn a_cut_connection_is_taken_up_where_it_broke() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(6, &[Answer::Cut(100), Answer::Cut(50)]);
        fetch_from(folder.path(), &[&mirror]).unwrap();
        assert_complete(folder.path());
        assert_eq!(mirror.ranges()[..3], [None, Some(100), Some(150)]);
        assert_eq!(mirror.ranges().len(), 6);
    }

    #[test]
    fn a_part_of_an_earlier_call_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("train-images-idx3-ubyte.gz.part");
        fs::write(&part, &compressed(0, 6)[..77]).unwrap();
        let mirror = Mirror::new(6, &[]);
        fetch_from(folder.path(), &[&mirror]).unwrap();
        assert_complete(folder.path());
        assert_eq!(mirror.ranges()[0], Some(77));
    }

    #[test]
    fn a_part_that_is_already_all_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("train-images-idx3-ubyte.gz.part");
        fs::write(&part, compressed(0, 6)).unwrap();
        let mirror = Mirror::new(6, &[]);
        fetch_from(folder.path(), &[&mirror]).unwrap();
        assert_complete(folder.path());
        assert_eq!(mirror.ranges().len(), 4); // the first was answered with 416
    }

    #[test]
    fn a_part_that_does_not_fit_is_thrown_away() {
        // Begun by a mirror that compresses otherwise; the same, but too long; and rubbish.
        for part in [compressed(0, 1)[..90].to_vec(), vec![7; 100_000], b"rubbish".to_vec()] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("train-images-idx3-ubyte.gz.part"), &part).unwrap();
            let mirror = Mirror::new(6, &[]);
            fetch_from(folder.path(), &[&mirror]).unwrap();
            assert_complete(folder.path());
            assert_eq!(mirror.ranges()[..2], [Some(part.len()), None]);
        }
    }

    #[test]
    fn a_server_without_ranges_starts_over() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(6, &[Answer::Cut(100), Answer::NoRanges]);
        fetch_from(folder.path(), &[&mirror]).unwrap();
        assert_complete(folder.path());
        assert_eq!(mirror.ranges()[..2], [None, Some(100)]);
    }

    #[test]
    fn the_next_mirror_stands_in_for_one_that_fails() {
        let script: [&'static [Answer]; 5] = [
            &[Answer::Status("404 Not Found")],
            &[Answer::Status("503 Service Unavailable")],
            &[Answer::Corrupt],
            &[Answer::Short],
            &[Answer::Silent],
        ];
        for (index, script) in script.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let (bad, good) = (Mirror::new(6, script), Mirror::new(1, &[]));
            // The good one must not be taken for a silent one.
            let patience = Duration::from_secs(if index == 4 { 5 } else { 60 });
            fetch_within(folder.path(), &[&bad, &good], patience).unwrap();
            assert_complete(folder.path());
            assert_eq!((bad.ranges().len(), good.ranges()), (4, vec![None]), "script {index}");
        }
    }

    #[test]
    fn a_part_of_one_mirror_is_finished_by_another_that_has_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let dying = Mirror::new(6, &[Answer::Cut(60), Answer::Cut(0)]);
        let good = Mirror::new(6, &[]);
        fetch_from(folder.path(), &[&dying, &good]).unwrap();
        assert_complete(folder.path());
        assert_eq!(good.ranges(), [Some(60)]);
    }

    #[test]
    fn when_all_fail_the_error_says_what_each_did_and_the_part_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Mirror::new(6, &[Answer::Status("404 Not Found")]);
        let dying = Mirror::new(6, &[Answer::Cut(60), Answer::Cut(0)]);
        let error = fetch_from(folder.path(), &[&missing, &dying]).unwrap_err().to_string();
        let file = "train-images-idx3-ubyte.gz";
        assert!(error.starts_with(folder.path().join(file).to_str().unwrap()), "{error}");
        assert!(error.contains(&format!("{}{file}: 404 Not Found; ", missing.url)), "{error}");
        assert!(error.contains(&format!("{}{file}: ", dying.url)) && !error.contains('\n'));
        let part = folder.path().join(format!("{file}.part"));
        assert_eq!(fs::read(part).unwrap(), compressed(0, 6)[..60]);
    }

    #[test]
    fn a_wrong_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("t10k-labels-idx1-ubyte.gz"), compressed(1, 6)).unwrap();
        fetch_from(folder.path(), &[&Mirror::new(6, &[])]).unwrap();
        assert_complete(folder.path());
    }

    #[test]
    fn progress_grows_to_the_length_of_the_file_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(6, &[Answer::Cut(100)]);
        let options = Options {
            mirrors: vec![mirror.url.trim_end_matches('/').to_owned()],
            environment_proxy: false,
            ..Options::default()
        };
        let sha256: [String; 4] = std::array::from_fn(|index| identity::sha256(&plain(index)));
        let mut reports = Vec::new();
        fetch_files(folder.path(), &sha256.each_ref().map(String::as_str), &options, &mut |now| {
            reports.push((now.index, now.bytes, now.total_bytes, now.done));
        })
        .unwrap();
        assert!(reports.is_sorted_by_key(|&(index, bytes, _, done)| (index, bytes, done)));
        let lengths: Vec<_> = (0..4).map(|index| compressed(index, 6).len() as u64).collect();
        assert!(reports.iter().all(|report| report.2 == Some(lengths[report.0])));
        let ends: Vec<_> = reports.iter().filter(|report| report.3).map(|end| end.1).collect();
        assert_eq!(ends, lengths);
    }

    #[test]
    fn tls_is_spoken_and_a_server_that_does_not_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut plain_server = Mirror::new(6, &[]);
        plain_server.url = plain_server.url.replace("http://", "https://");
        let error = fetch_from(folder.path(), &[&plain_server]).unwrap_err().to_string();
        assert!(error.contains("https://127.0.0.1"), "{error}");
        assert!(plain_server.ranges().is_empty());
    }
}
