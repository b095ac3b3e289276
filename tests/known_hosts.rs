//! licfwd's verdict on a host key is ssh's own: generated known_hosts files,
//! one real sshd, and `ssh -o BatchMode=yes` as the oracle.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::rig::{self, Scratch, long};

/// What the oracle needs to know about the gateway.
pub struct Gateway<'a> {
    /// The sshd's port on 127.0.0.1.
    pub port: u16,
    /// The sshd's public host keys, each `type base64`.
    pub host_keys: &'a [String],
    /// A private directory for the generated files.
    pub dir: &'a Path,
    /// A private key that the gateway does not accept.
    pub identity: &'a Path,
}

/// Generates `count` sets of known_hosts files from `seed` and compares what
/// `licfwd` and `ssh` make of each. Where a new key is to be accepted, what they
/// write down is compared as well. Panics with all files of the first case that
/// differs.
pub fn verdict_equals_ssh(licfwd: &Path, gateway: &Gateway<'_>, seed: u64, count: usize) {
    // Shown when the test fails.
    println!("seed {seed}: repeat with LICFWD_SEED={seed}");
    let stock = Stock::new(gateway);
    let mut rng = StdRng::seed_from_u64(seed);
    let cases: Vec<Case> = (0..count).map(|_| stock.case(&mut rng)).collect();
    // ssh spends most of its time waiting, so two halves at a time.
    let (left, right) = cases.split_at(count / 2);
    let run = |from: usize, cases: &[Case]| -> usize {
        let numbered = cases.iter().enumerate();
        numbered.filter(|(i, c)| c.compare(licfwd, gateway, seed, from + i)).count()
    };
    let accepted = std::thread::scope(|scope| {
        let half = scope.spawn(|| run(0, left));
        run(left.len(), right) + half.join().expect("the left half differs, see above")
    });
    println!("seed {seed}: {count} of {count} verdicts equal, {accepted} accepted");
    // A generator that always hits one side would prove nothing.
    let share = accepted * 100 / count;
    assert!((20..=80).contains(&share), "{share} % accepted: the generator is lopsided");
}

/// One start state: how to connect, and the files.
struct Case {
    /// Lines of ssh_config, without those that name files.
    config: String,
    accept_new: bool,
    hashed: bool,
    user_files: Vec<File>,
    global_files: Vec<File>,
}

enum File {
    Lines(Vec<u8>),
    Missing,
    /// Cannot be read, by root neither.
    Directory,
}

impl Case {
    /// Whether the key was accepted, by both; panics if they differ.
    fn compare(&self, licfwd: &Path, gateway: &Gateway<'_>, seed: u64, number: usize) -> bool {
        let dir = gateway.dir.join(format!("case-{seed}-{number}"));
        let (theirs, ours) = (dir.join("ssh"), dir.join("licfwd"));
        let their_config = self.write(&theirs, gateway);
        let our_config = self.write(&ours, gateway);

        let ssh = ssh(&their_config, &[]);
        let target = format!("127.0.0.1:{}", gateway.port);
        let mut licfwd = Command::new(licfwd);
        licfwd.env("TMPDIR", gateway.dir).arg("-F").arg(&our_config);
        let licfwd = run(licfwd.args(["gateway", &target]));

        let told = String::from_utf8_lossy(&ssh.stderr).into_owned();
        let ssh_accepts = match () {
            () if told.contains("Host key verification failed") => Some(false),
            () if told.contains("Permission denied") => Some(true),
            () => None,
        };
        let licfwd_accepts = match licfwd.status.code() {
            Some(76) => Some(false),
            Some(0 | 69 | 77) => Some(true),
            _ => None,
        };
        let report = || {
            let show = |file: &Path| format!("--- {}\n{}", file.display(), text(file));
            let files = files_in(&theirs).into_iter().chain(files_in(&ours));
            format!(
                "seed {seed}, case {number}\n{}\n--- ssh: {}\n{told}--- licfwd: {}\n{}",
                files.map(|f| show(&f)).collect::<String>(),
                ssh.status,
                licfwd.status,
                String::from_utf8_lossy(&licfwd.stderr)
            )
        };
        assert!(ssh_accepts.is_some(), "no verdict from ssh: {}", report());
        assert_eq!(licfwd_accepts, ssh_accepts, "licfwd is left, ssh is right: {}", report());

        let writable = !matches!(self.user_files[0], File::Directory);
        if self.accept_new && self.hashed && writable {
            // Salts differ: what counts is that ssh finds the key that we wrote.
            let again = ssh_accepts == Some(false) || {
                let again = self::ssh(&our_config, &["-o", "StrictHostKeyChecking=yes"]);
                String::from_utf8_lossy(&again.stderr).contains("Permission denied")
            };
            assert!(again, "ssh does not find what licfwd wrote: {}", report());
        } else {
            let known_hosts = |dir: &Path| -> Vec<String> {
                let files = files_in(dir).into_iter().filter(|f| !f.ends_with("config"));
                files.map(|f| text(&f)).collect()
            };
            assert_eq!(known_hosts(&ours), known_hosts(&theirs), "{}", report());
        }
        fs::remove_dir_all(&dir).expect("remove the case's directory");
        ssh_accepts == Some(true)
    }

    /// Writes the files into `dir` and returns the configuration's path.
    fn write(&self, dir: &Path, gateway: &Gateway<'_>) -> PathBuf {
        fs::create_dir_all(dir).expect("create the case's directory");
        let mut config = format!(
            "Host gateway\nPort {}\nUser nobody\nIdentityFile {}\n{}",
            gateway.port,
            gateway.identity.display(),
            self.config
        );
        // The cheapest key exchange that both speak: hundreds of them follow.
        config += "KexAlgorithms curve25519-sha256\n";
        config += "IdentitiesOnly yes\nIdentityAgent none\nBatchMode yes\nAddressFamily inet\n";
        for (option, files) in
            [("UserKnownHostsFile", &self.user_files), ("GlobalKnownHostsFile", &self.global_files)]
        {
            config += option;
            for (i, file) in files.iter().enumerate() {
                let path = dir.join(format!("{option}-{i}"));
                match file {
                    File::Lines(lines) => fs::write(&path, lines).expect("write known_hosts"),
                    File::Directory => fs::create_dir(&path).expect("create a directory"),
                    File::Missing => {}
                }
                let _ = write!(config, " {}", path.display());
            }
            config += "\n";
        }
        let path = dir.join("config");
        fs::write(&path, config).expect("write the configuration");
        path
    }
}

fn ssh(config: &Path, more: &[&str]) -> Output {
    let mut ssh = Command::new("ssh");
    run(ssh.arg("-F").arg(config).args(more).args(["-o", "BatchMode=yes", "gateway", "true"]))
}

fn run(command: &mut Command) -> Output {
    let command = command.stdin(Stdio::null());
    command.output().unwrap_or_else(|e| panic!("run {command:?}: {e}"))
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("list the case's directory");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("entry").path()).collect();
    files.sort();
    files
}

fn text(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

const ALIAS: &str = "gate-way.example";
const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];

/// What lines are made of.
struct Stock {
    port: u16,
    /// The gateway's own keys, each `type base64`.
    own: Vec<String>,
    /// Other keys, some of types that the gateway does not have.
    foreign: Vec<String>,
    /// Names hashed by ssh-keygen, each with the name it stands for.
    hashed: Vec<(String, String)>,
}

impl Stock {
    fn new(gateway: &Gateway<'_>) -> Stock {
        let dir = gateway.dir.join("stock");
        fs::create_dir_all(&dir).expect("create the stock's directory");
        let mut foreign = Vec::new();
        for kind in ["ed25519", "ecdsa -b 256", "ecdsa -b 384", "rsa -b 1024", "rsa -b 2048", "dsa"]
        {
            let file = dir.join(kind.replace(' ', ""));
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-N", "", "-f"]).arg(&file).arg("-t").args(kind.split(' '));
            // Newer releases have no dsa, and then do not read its lines either.
            if run(&mut keygen).status.success() {
                foreign.push(public_key(&file.with_extension("pub")));
            }
        }
        // A certificate for a host key, and a key on a security token.
        let ed25519 = dir.join("ed25519");
        let mut sign = Command::new("ssh-keygen");
        sign.args(["-q", "-h", "-I", "x", "-s"]).arg(&ed25519).arg(dir.join("rsa-b2048.pub"));
        assert!(run(&mut sign).status.success(), "{sign:?}");
        foreign.push(public_key(&dir.join("rsa-b2048-cert.pub")));
        foreign.push(
            "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAAAAAAAAAAA\
             AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABHNzaDo="
                .to_owned(),
        );
        let own = gateway.host_keys.to_vec();

        let mut names: Vec<String> = vec![ALIAS.into(), "other.example".into()];
        for host in HOSTS {
            names.extend([host.to_owned(), format!("[{host}]:{}", gateway.port)]);
        }
        let names: Vec<String> = names.iter().flat_map(|n| vec![n.clone(); 5]).collect();
        let file = dir.join("names");
        let lines: String = names.iter().map(|n| format!("{n} {}\n", own[0])).collect();
        fs::write(&file, lines).expect("write names");
        let hashed = run(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file));
        assert!(hashed.status.success(), "ssh-keygen -H");
        let hashes = text(&file);
        let hashes = hashes.lines().filter_map(|l| l.split(' ').next()).map(str::to_owned);
        let hashed = names.into_iter().zip(hashes).map(|(name, hash)| (hash, name)).collect();
        Stock { port: gateway.port, own, foreign, hashed }
    }

    fn case(&self, rng: &mut StdRng) -> Case {
        let host = *HOSTS.choose(rng).expect("hosts");
        let alias = rng.random_bool(0.25);
        let strict = *["yes", "ask", "accept-new"].choose_weighted(rng, weight).expect("modes");
        let (accept_new, hashed) = (strict == "accept-new", rng.random_bool(0.5));
        let spelling = if rng.random_bool(0.2) { host.to_uppercase() } else { host.to_owned() };
        let mut config = format!("HostName {spelling}\nStrictHostKeyChecking {strict}\n");
        let _ = writeln!(config, "HashKnownHosts {}", if hashed { "yes" } else { "no" });
        if alias {
            let _ = writeln!(
                config,
                "HostKeyAlias {}",
                if rng.random_bool(0.5) { ALIAS } else { "Gate-Way.EXAMPLE" }
            );
        }
        if rng.random_bool(0.15) {
            let without = *["-ssh-ed25519*", "-ecdsa-*", "-rsa-sha2-*", "-ssh-ed25519*,ecdsa-*"]
                .choose(rng)
                .expect("lists");
            let _ = writeln!(config, "HostKeyAlgorithms {without}");
        }
        let name = match alias {
            true => ALIAS.to_owned(),
            false => format!("[{host}]:{}", self.port),
        };
        let lines = Lines { stock: self, name: &name, host, accept_new, own: rng.random_bool(0.6) };
        let users = rng.random_range(1..=3);
        let globals = rng.random_range(1..=2);
        Case {
            config,
            accept_new,
            hashed,
            user_files: (0..users).map(|_| lines.file(rng)).collect(),
            global_files: (0..globals).map(|_| lines.file(rng)).collect(),
        }
    }
}

fn weight(strict: &&str) -> u32 {
    match *strict {
        "yes" => 6,
        _ => 2,
    }
}

/// `type base64` of a public key file.
fn public_key(file: &Path) -> String {
    let text = text(file);
    text.split(' ').take(2).collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// Writes the lines of one case.
struct Lines<'a> {
    stock: &'a Stock,
    /// The name that is looked up first.
    name: &'a str,
    /// The name without port.
    host: &'a str,
    accept_new: bool,
    /// Whether the gateway's own keys appear in most lines, or hardly ever.
    own: bool,
}

impl Lines<'_> {
    fn file(&self, rng: &mut StdRng) -> File {
        match rng.random_range(0..10) {
            0 => return File::Missing,
            // ssh goes on when it cannot write there, and so do we.
            1 => return File::Directory,
            _ => {}
        }
        let line_end: &[u8] = if rng.random_bool(0.1) { b"\r\n" } else { b"\n" };
        let mut bytes = Vec::new();
        for _ in 0..rng.random_range(0..6) {
            bytes.extend(self.line(rng));
            bytes.extend(line_end);
        }
        // ssh would append to a line without end, and spoil it.
        if !self.accept_new && rng.random_bool(0.2) {
            bytes.extend(self.sound_line(rng));
        }
        File::Lines(bytes)
    }

    fn line(&self, rng: &mut StdRng) -> Vec<u8> {
        match rng.random_range(0..20) {
            0 => b"".to_vec(),
            1 => b" \t ".to_vec(),
            2 => [b"# ", self.sound_line(rng).as_slice()].concat(),
            3 => [b"\t ", self.sound_line(rng).as_slice()].concat(),
            4..=8 => self.malformed(rng),
            _ => self.sound_line(rng),
        }
    }

    fn sound_line(&self, rng: &mut StdRng) -> Vec<u8> {
        let marker = match rng.random_range(0..14) {
            0 => "@revoked ",
            1 => "@cert-authority ",
            2 => "@revoked \t",
            _ => "",
        };
        let revoked = marker.starts_with("@revoked");
        let hosts = self.hosts(rng);
        // Else hardly any case would survive its own revocations.
        let key = if revoked && rng.random_bool(0.6) {
            pick(rng, &self.stock.foreign)
        } else {
            self.key(rng)
        };
        let gap = *["\t", "  ", " \t ", " ", " ", " ", " "].choose(rng).expect("gaps");
        let comment =
            *["", "", " root@gate", " # old", "\t", " AAAA ="].choose(rng).expect("comments");
        let key = key.replace(' ', [" ", " ", " ", "\t", "   "].choose(rng).expect("gaps"));
        [marker.as_bytes(), &hosts, gap.as_bytes(), key.as_bytes(), comment.as_bytes()].concat()
    }

    fn key<'a>(&'a self, rng: &mut StdRng) -> &'a str {
        let own = if self.own { 0.75 } else { 0.1 };
        let from = if rng.random_bool(own) { &self.stock.own } else { &self.stock.foreign };
        pick(rng, from)
    }

    /// A host field: mostly one that names the gateway, or nearly.
    fn hosts(&self, rng: &mut StdRng) -> Vec<u8> {
        let (name, host, port) = (self.name, self.host, self.stock.port);
        let field = match rng.random_range(0..32) {
            0..=5 => name.to_owned(),
            6..=8 => host.to_owned(),
            9..=12 => return self.hashed(rng, name),
            13 => return self.hashed(rng, host),
            14 => pick(
                rng,
                &self.stock.hashed.iter().map(|(hash, _)| hash.clone()).collect::<Vec<_>>(),
            )
            .to_owned(),
            15 => format!("other.example,{name},10.0.0.1"),
            16 => format!("{name},!{name}"),
            17 => format!("!{host},*"),
            18 => "!other.*,*,!10.*".to_owned(),
            19 => "*".to_owned(),
            20 => format!("[*]:{port}"),
            21 => format!("[{host}]:*"),
            22 => name.to_uppercase(),
            23 => name.replace(['1', 'a'], "?"),
            24 => format!("{}*", &name[..name.len() / 2]),
            25 => format!("*{}**?", &name[2..name.len() - 1]),
            26 => format!("?{name}"),
            27 => format!(",,{name},"),
            28 => format!("!!{name},{host}"),
            29 => format!("{name},{}", "x".repeat(rng.random_range(1020..1027))),
            30 => return [b"caf\xe9,", name.as_bytes()].concat(),
            _ => format!("[{host}]:{},other.example", port ^ 1),
        };
        field.into_bytes()
    }

    fn hashed(&self, rng: &mut StdRng, name: &str) -> Vec<u8> {
        let fitting = self.stock.hashed.iter().filter(|(_, of)| of == name);
        let fitting: Vec<String> = fitting.map(|(hash, _)| hash.clone()).collect();
        pick(rng, &fitting).to_owned().into_bytes()
    }

    /// A line that ssh takes for malformed, or that looks so.
    fn malformed(&self, rng: &mut StdRng) -> Vec<u8> {
        let (name, mut key) = (self.name, self.key(rng));
        // ssh checks a certificate's signature before it believes the line, we do not.
        while key.contains("-cert-") {
            key = self.key(rng);
        }
        let (label, blob) = key.split_once(' ').expect("type and blob");
        let hash = String::from_utf8(self.hashed(rng, name)).expect("ascii");
        let line = match rng.random_range(0..26) {
            0 => format!("{name} "),
            1 => format!("{name} {label}"),
            2 => format!("{name} {label} "),
            3 => format!("{name} {blob}"),
            4 => format!("{name} {label} {}", &blob[..blob.len() - 1]),
            5 => format!("{name} {label} {}", &blob[..blob.len() / 8 * 4]),
            6 => format!("{name} {label} {blob}AAAA"),
            7 => format!("{name} {label} {}!{}", &blob[..20], &blob[21..]),
            8 => format!("{name} {} {blob}", label.to_uppercase()),
            9 => format!("{name} ssh-rsa {blob}"),
            10 => format!("{name} ecdsa-sha2-nistp384 {blob}"),
            11 => format!("{name} rsa-sha2-512 {blob}"),
            12 => format!("{name} 1024 65537 1234567890123456789"),
            13 => format!("@revoke {name} {key}"),
            14 => format!("@revoked @revoked {name} {key}"),
            15 => format!("@revoked\t{name} {key}"),
            16 => format!("@cert-authority\t{name}\t{label}\t{blob}"),
            17 => format!("@ {name} {key}"),
            18 => "@revoked".to_owned(),
            19 => format!("{} {key}", hash.replacen("|1|", "|2|", 1)),
            20 => format!("{} {key}", &hash[..hash.len() - 4]),
            21 => format!("{} {key}", hash.replacen('=', "", 1)),
            22 => format!("{hash},{name} {key}"),
            23 => format!("{name} # {key}"),
            24 => format!("{name}, {key}"),
            // An RSA key of 512 bits, which ssh does not read.
            _ => format!("{name} ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAQQD{}", "x".repeat(85)),
        };
        line.into_bytes()
    }
}

fn pick<'a>(rng: &mut StdRng, from: &'a [String]) -> &'a str {
    from.choose(rng).expect("a choice")
}

/// A gateway with a host key of each kind; its log-in is always refused.
fn gateway(dir: &Scratch) -> (rig::Gateway, Vec<String>) {
    // The rig's sshd runs as another user when the tests run as root.
    let (folder, file) = match fs::metadata("/proc/self").expect("stat").uid() {
        0 => (0o711, 0o644),
        _ => (0o700, 0o600),
    };
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    };
    mode(dir.path(), folder);
    let keys = ["ed25519", "ecdsa", "rsa"].map(|kind| {
        let key = dir.file(&format!("host_{kind}"));
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-N", "", "-t", kind, "-f"]).arg(&key);
        assert!(run(&mut keygen).status.success(), "{keygen:?}");
        mode(&key, file);
        key
    });
    let mut lines: Vec<String> =
        keys.iter().map(|key| format!("HostKey {}", key.display())).collect();
    lines.push("PubkeyAuthentication no".into());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let gateway = rig::Gateway::with(&lines);
    let public = |key: &PathBuf| public_key(&key.with_extension("pub"));
    let mut public: Vec<String> = keys.iter().map(public).collect();
    // The rig's own host key comes last, so that sshd shows the one above.
    public.truncate(3);
    (gateway, public)
}

/// 80 generated sets of files, with `--long` 300: licfwd's verdict is ssh's.
#[test]
fn verdicts_on_generated_files_are_those_of_ssh() {
    let dir = Scratch::new();
    let (sshd, host_keys) = gateway(&dir);
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name}={n}")))
    };
    let gateway = Gateway {
        port: sshd.port(),
        host_keys: &host_keys,
        dir: dir.path(),
        identity: &sshd.identity(),
    };
    let seed = number("LICFWD_SEED", rand::random());
    let count = number("LICFWD_CASES", if long() { 300 } else { 80 }) as usize;
    let licfwd = Path::new(env!("CARGO_BIN_EXE_licfwd"));
    verdict_equals_ssh(licfwd, &gateway, seed, count);
}
