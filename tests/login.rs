//! Logins without anybody at a terminal: key types, file formats, agents, and
//! what is said when none of it helps.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::rig::gateway::{account, keygen};
use crate::rig::traffic::check_out;
use crate::rig::{
    Dropbear, Job, LIMIT, LicenseServer, Scratch, Service, Site, eventually, say_skipped, skip,
    wait_until,
};

/// Key types, as arguments of ssh-keygen.
const TYPES: [&[&str]; 5] = [
    &["-t", "ed25519"],
    &["-t", "ecdsa", "-b", "256"],
    &["-t", "ecdsa", "-b", "384"],
    &["-t", "ecdsa", "-b", "521"],
    &["-t", "rsa", "-b", "2048"],
];

/// OpenSSH's own format, PEM (PKCS#1 for RSA, SEC1 for ECDSA), and PKCS#8.
const FORMATS: [&str; 3] = ["RFC4716", "PEM", "PKCS8"];

/// What sshd's default was before it accepted SHA-1 no more.
const NO_SHA1: &str = "PubkeyAcceptedAlgorithms -ssh-rsa,ssh-rsa-cert-v01@openssh.com";

/// Goal: every key type in every file format logs in, RSA without SHA-1.
#[test]
fn key_types_and_formats_on_openssh() {
    let site = Site::with(&[NO_SHA1]);
    let keys = key_files(site.gateway.client());
    let public: String = keys.iter().map(|key| key.public.as_str()).collect();
    site.gateway.authorize(&public);
    for key in keys {
        site.logs_in(&["-i", &key.path]);
        assert!(was_accepted(&site, &key.path), "{key:?}");
    }
}

/// Goal: the same on dropbear's server.
#[test]
fn key_types_and_formats_on_dropbear() {
    let (job, directory) = (Job::new(), Scratch::new());
    let server = LicenseServer::start(Service::CheckOut);
    let keys = key_files(&directory);
    let public: String = keys.iter().map(|key| key.public.as_str()).collect();
    let dropbear = match Dropbear::start(&public) {
        Ok(dropbear) => dropbear,
        Err(why) => skip!("{why}"),
    };
    let user = format!("{}@127.0.0.1", account().name);
    for key in keys {
        let before = dropbear.log().matches("Pubkey auth succeeded").count();
        let mut call = job.command(crate::rig::job::licfwd());
        call.args(["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-i", &key.path]);
        call.args(with_port(dropbear.port(), &dropbear.known_hosts()));
        call.args([&user, &format!("127.0.0.1:{}", server.port())]);
        job.run(&mut call).port("MLM_LICENSE_FILE");
        job.end();
        let after = dropbear.log().matches("Pubkey auth succeeded").count();
        assert_eq!(after, before + 1, "{key:?}");
    }
}

/// Goal: a certificate beside its key, or named by CertificateFile, logs in
/// where the gateway knows nothing but the authority.
#[test]
fn user_certificates_from_files() {
    let authority = Scratch::new();
    let ca = authority.file("ca");
    keygen(&ca, &["-t", "ed25519"]);
    // sshd reads it as another user, when this one is root.
    open_to_all(authority.path(), 0o711);
    let trusted = format!("TrustedUserCAKeys {}.pub", ca.display());
    let site = Site::with(&[&trusted, NO_SHA1]);
    site.gateway.authorize("");
    for (at, kind) in TYPES.into_iter().enumerate() {
        let key = site.gateway.client().file(&format!("certified-{at}"));
        keygen(&key, kind);
        certify(&ca, &key, site.gateway.user());
        let (key, certificate) = (text(&key), text(&beside(&key, "-cert.pub")));
        site.logs_in(&["-i", &key]);

        let moved = text(&site.gateway.client().file(&format!("moved-{at}")));
        fs::rename(&certificate, &moved).expect("move the certificate");
        site.fails(77, &["-i", &key], &["refused"]);
        site.logs_in(&["-i", &key, "-o", &format!("CertificateFile={moved}")]);
    }
}

/// Goal: a key that only an agent has unlocked logs in; with IdentitiesOnly
/// the agent's other keys stay out of sight.
#[test]
fn agent_holds_the_unlocked_key() {
    let site = Site::with(&["MaxAuthTries 2"]);
    let agent = Agent::start();
    agent.add_strangers(4);
    let key = site.gateway.client().file("encrypted");
    site.gateway.authorize(&keygen(&key, &["-t", "ed25519"]));
    agent.add(&key);
    encrypt(&key);
    let (key, socket) = (text(&key), format!("IdentityAgent={}", text(&agent.socket)));
    site.logs_in(&["-o", &socket, "-i", &key]);
    // By $SSH_AUTH_SOCK as well, which IdentityAgent overrules.
    let mut call = site.call(&["-o", "IdentityAgent=SSH_AUTH_SOCK", "-i", &key]);
    site.job.run(call.env("SSH_AUTH_SOCK", &agent.socket)).port("MLM_LICENSE_FILE");
    // Named by its public half alone, as people do with a forwarded agent.
    fs::remove_file(&key).expect("remove the key");
    site.logs_in(&["-o", &socket, "-i", &format!("{key}.pub")]);
}

/// Goal: an agent with more keys than the gateway's MaxAuthTries: 77, after one
/// connection, with the way out of it.
#[test]
fn agent_with_too_many_keys() {
    let site = Site::with(&["MaxAuthTries 3"]);
    let agent = Agent::start();
    agent.add_strangers(6);
    let socket = format!("IdentityAgent={}", text(&agent.socket));
    let options = ["-o", &socket, "-o", "IdentitiesOnly=no"];
    site.fails(77, &options, &["MaxAuthTries", "IdentitiesOnly=yes", "agent key "]);
    assert_eq!(site.connections(), 1);
}

/// Goal: a login without anybody to type shows its keys without asking first, which takes
/// time, and asks for the words of its failure, unless the gateway has had enough by then.
#[test]
fn keys_alone_are_shown_at_once() {
    for (tries, told) in [(2, false), (6, true)] {
        let tries = format!("MaxAuthTries {tries}");
        let site = Site::with(&["LogLevel DEBUG1", "PasswordAuthentication yes", &tries]);
        let methods = || -> Vec<String> {
            let log = site.gateway.log();
            let asked = log.lines().filter(|line| line.contains("userauth-request"));
            let methods = asked.filter_map(|line| line.split_once(" method ")?.1.split(' ').next());
            methods.map(str::to_owned).collect()
        };
        site.logs_in(&[]);
        // Whether it is known there, and signed.
        assert_eq!(methods(), ["publickey", "publickey"]);
        site.gateway.authorize("");
        let told = match told {
            true => "the gateway offers publickey, password; nobody is here to type",
            false => "a key that the gateway is to know",
        };
        let words = ["refused: tried key ", told];
        site.fails(77, &[], &words);
        assert_eq!(methods()[2..], ["publickey", "none"]);
        // With more than two it asks first: they could be too many.
        let two = ["one", "two"].map(|name| site.gateway.client().file(name));
        two.iter().for_each(|key| drop(keygen(key, &["-t", "ed25519"])));
        let [one, two] = two.map(|key| text(&key));
        let asked = methods().len();
        site.fails(77, &["-i", &one, "-i", &two], &[&one]);
        assert_eq!(methods()[asked], "none");
    }
}

/// Goal: a key that is one step of two is told from one that is refused, though the gateway
/// was not asked before what it wants.
#[test]
fn a_key_that_is_one_step_of_two() {
    let two = ["PasswordAuthentication yes", "AuthenticationMethods publickey,password"];
    let site = Site::with(&two);
    let wanted = "the gateway took publickey and wants more; the gateway offers password; nobody";
    site.fails(77, &[], &[wanted]);
    let site = Site::with(&["AuthenticationMethods publickey,publickey"]);
    let second = site.gateway.client().file("second");
    let public = keygen(&second, &["-t", "ed25519"]);
    let first = fs::read_to_string(site.gateway.identity().with_extension("pub"));
    site.fails(77, &[], &["known there, but not enough"]);
    site.gateway.authorize(&(first.expect("a public key") + &public));
    site.logs_in(&["-i", &text(&second)]);
}

/// Goal: an agent that does not answer holds nobody up for good, nor does one
/// whose socket is stale.
#[test]
fn agent_that_is_gone_or_hangs() {
    let site = Site::new();
    let silent = site.job.directory().file("silent");
    let _listener = UnixListener::bind(&silent).expect("bind");
    let stale = site.job.directory().file("stale");
    drop(UnixListener::bind(&stale).expect("bind"));
    for socket in [silent, stale] {
        site.logs_in(&["-o", &format!("IdentityAgent={}", text(&socket))]);
    }
}

/// Goal: a private key that others can read is refused as ssh refuses it, with
/// the command that mends it; another key still logs in.
#[test]
fn key_that_others_can_read() {
    let site = Site::new();
    let key = site.gateway.client().file("open");
    let public = keygen(&key, &["-t", "ed25519"]);
    open_to_all(&key, 0o644);
    let outcome = site.job.run(&mut site.call(&["-i", &text(&key)]));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("0644"), "{outcome:?}");
    site.job.end();

    site.gateway.authorize(&public);
    let mend = format!("chmod 600 {}", key.display());
    site.fails(78, &["-i", &text(&key)], &["permissions 0644", &mend]);
}

/// Goal: an identity that is named and does not exist: 78, naming it.
#[test]
fn key_that_is_missing() {
    let site = Site::new();
    site.gateway.authorize("");
    site.fails(78, &["-i", "/nonexistent/key"], &["/nonexistent/key: no such file"]);
}

/// Goal: an encrypted key with neither agent nor terminal: 77 at once, saying so.
#[test]
fn encrypted_key_without_agent() {
    let site = Site::new();
    for (kind, format) in [("ed25519", "RFC4716"), ("rsa", "PEM"), ("ecdsa", "PKCS8")] {
        let key = site.gateway.client().file(kind);
        site.gateway.authorize(&keygen(&key, &["-t", kind, "-m", format]));
        encrypt(&key);
        let name = format!("{}: encrypted", key.display());
        site.fails(77, &["-i", &text(&key)], &[&name, "ssh-add"]);
    }
}

/// Goal: a refused login names every key that was shown and what the gateway
/// offers; where that is hostbased, how to make a key for the cluster.
#[test]
fn refused_login_says_what_helps() {
    let site = Site::with(&["HostbasedAuthentication yes"]);
    site.gateway.authorize("");
    let other = site.gateway.client().file("other");
    keygen(&other, &["-t", "ecdsa"]);
    let words = [
        &format!("key {}", other.display()),
        &format!("key {}", site.gateway.identity().display()),
        "publickey",
        "hostbased",
        "section KEYS",
    ];
    site.fails(77, &["-i", &text(&other)], &words);
    assert_eq!(site.connections(), 1);
}

/// Goal: where the gateway wants what only a person could type, a batch job
/// ends with 77, and says why.
#[test]
fn nobody_to_type_a_password() {
    let site = Site::with(&["PasswordAuthentication yes"]);
    site.gateway.authorize("");
    site.fails(77, &[], &["password", "nobody is here to type"]);
    assert_eq!(site.connections(), 1);
}

/// Goal: where no ssh is installed, the command line is enough.
#[test]
fn no_ssh_in_path() {
    let site = Site::new();
    let mut call = site.job.command(crate::rig::job::licfwd());
    call.env("PATH", "/nonexistent");
    call.args(["-i", &text(&site.gateway.identity())]);
    call.args(with_port(site.gateway.port(), &site.gateway.known_hosts()));
    let user = format!("{}@127.0.0.1", site.gateway.user());
    site.job.run(call.args([&user, &site.target()])).port("MLM_LICENSE_FILE");
    assert!(was_accepted(&site, &text(&site.gateway.identity())));
}

/// Goal: ssh_config's tokens, and several IdentityFile lines, of which the
/// missing and the wrong ones are passed over.
#[test]
fn tokens_and_several_identity_files() {
    let site = Site::new();
    let directory = site.gateway.client();
    keygen(&directory.file("wrong"), &["-t", "ed25519"]);
    let name = format!("{}-127.0.0.1-gw-{}-50%", site.gateway.user(), site.gateway.port());
    let right = directory.file(&name);
    site.gateway.authorize(&keygen(&right, &["-t", "ecdsa"]));

    let rig_config = fs::read_to_string(site.gateway.config()).expect("ssh_config");
    let files = ["missing", "wrong", "%r-%h-%n-%p-50%%"];
    let lines = files.map(|f| format!("IdentityFile {}/{f}\n", directory.path().display()));
    let config = directory.write("tokens", &format!("{}{rig_config}", lines.concat()));
    site.logs_in(&["-F", &text(&config)]);
    assert!(was_accepted(&site, &text(&right)));
}

/// Goal: relative names after -F and -i mean the caller's directory, and a
/// tunnel comes back after its key file has gone away.
#[test]
fn relative_names_and_a_key_that_goes_away() {
    let mut site = Site::new();
    let away = site.job.directory().file("elsewhere");
    fs::create_dir(&away).expect("make a directory");
    fs::rename(site.gateway.identity(), away.join("key")).expect("move the key");
    symlink(site.gateway.config(), away.join("config")).expect("link");
    let mut call = site.job.command(crate::rig::job::licfwd());
    call.args(["-F", "config", "-i", "key", "gw", &site.target()]);
    let outcome = site.job.run(call.current_dir(&away));
    let port = outcome.port("MLM_LICENSE_FILE");
    check_out(port, "MATLAB").expect("a seat");

    fs::remove_dir_all(&away).expect("remove the key");
    site.gateway.restart();
    wait_until("the tunnel is back", LIMIT, || check_out(port, "MATLAB").is_ok());
}

/// Whether sshd has let somebody in by that key.
fn was_accepted(site: &Site, private_key: &str) -> bool {
    let print = fingerprint(private_key);
    let accepted = |line: &str| line.contains("Accepted publickey") && line.contains(&print);
    eventually(LIMIT, || site.gateway.log().lines().any(accepted))
}

/// Options for a gateway on 127.0.0.1, of which no configuration tells.
fn with_port(port: u16, known_hosts: &Path) -> Vec<String> {
    vec![
        format!("-p{port}"),
        format!("-oUserKnownHostsFile={}", known_hosts.display()),
        "-oGlobalKnownHostsFile=/dev/null".into(),
    ]
}

#[derive(Debug)]
struct Key {
    path: String,
    public: String,
}

/// A key of every type in every format; those that cannot be made are named.
fn key_files(directory: &Scratch) -> Vec<Key> {
    let mut keys = Vec::new();
    for kind in TYPES {
        for format in FORMATS {
            let path = directory.file(&format!("{}-{format}", kind.concat()));
            let public = match (kind[1], format) {
                // It has no PEM format, and ssh-keygen no other than its own.
                ("ed25519", "PEM") => continue,
                ("ed25519", "PKCS8") => match ed25519_pkcs8(&path) {
                    Some(public) => public,
                    None => {
                        say_skipped("no openssl to make ed25519 in PKCS#8");
                        continue;
                    }
                },
                _ => keygen(&path, &[kind, &["-m", format]].concat()),
            };
            // Nothing but the private half may be needed.
            fs::rename(beside(&path, ".pub"), beside(&path, ".public"))
                .expect("move the public half");
            let path = text(&path);
            keys.push(Key { path, public });
        }
    }
    keys
}

/// Makes an ed25519 key in PKCS#8; returns the public half.
fn ed25519_pkcs8(path: &Path) -> Option<String> {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).stderr(Stdio::null());
        let output = command.output().ok()?;
        output.status.success().then_some(output.stdout)
    };
    let name = text(path);
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", &name])?;
    open_to_all(path, 0o600);
    // The key itself is the end of its DER form; before it, two SSH strings' heads.
    let der = openssl(&["pkey", "-in", &name, "-pubout", "-outform", "DER"])?;
    let key = der.get(der.len() - 32..)?;
    let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20", key].concat();
    let raw = beside(path, ".raw");
    fs::write(&raw, blob).expect("write");
    let base64 = openssl(&["base64", "-A", "-in", &text(&raw)])?;
    let public = format!("ssh-ed25519 {}\n", String::from_utf8_lossy(&base64));
    fs::write(beside(path, ".pub"), &public).expect("write");
    Some(public)
}

/// Signs a user certificate, which comes to lie beside the key.
fn certify(ca: &Path, key: &Path, user: &str) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-I", "licfwd-rig", "-n", user, "-s"]);
    command.arg(ca).arg(beside(key, ".pub"));
    let output = command.output().expect("run ssh-keygen");
    assert!(output.status.success(), "{output:?}");
}

fn encrypt(key: &Path) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-p", "-P", "", "-N", "a passphrase", "-f"]);
    let output = command.arg(key).output().expect("run ssh-keygen");
    assert!(output.status.success(), "{output:?}");
}

/// `SHA256:...`, as it stands in sshd's log.
fn fingerprint(private_key: &str) -> String {
    let public = [".public", ".pub"].map(|suffix| beside(private_key, suffix));
    let public = public.iter().find(|path| path.exists()).expect("a public half");
    let mut command = Command::new("ssh-keygen");
    let output = command.arg("-lf").arg(public).output();
    let output = output.expect("run ssh-keygen");
    let line = String::from_utf8_lossy(&output.stdout);
    line.split(' ').nth(1).expect("a fingerprint").to_owned()
}

/// `path` with the suffix appended.
fn beside(path: impl AsRef<Path>, suffix: &str) -> PathBuf {
    format!("{}{suffix}", path.as_ref().display()).into()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

/// An ssh-agent that lives as long as the pipe to its guardian.
pub struct Agent {
    guardian: Child,
    directory: Scratch,
    /// Where it listens.
    pub socket: PathBuf,
}

impl Agent {
    /// An empty one.
    pub fn start() -> Agent {
        let directory = Scratch::new();
        let socket = directory.file("agent");
        let mut command = Command::new("ssh-agent");
        command.arg("-a").arg(&socket);
        command.args(["sh", "-c", "cat; kill $SSH_AGENT_PID"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let guardian = command.spawn().expect("run ssh-agent");
        let agent = Agent { guardian, directory, socket };
        wait_until("the agent listens", LIMIT, || agent.listens());
        agent
    }

    fn listens(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    /// Gives it a key, and the certificate beside that.
    pub fn add(&self, key: &Path) {
        let mut command = Command::new("ssh-add");
        command.arg("-q").arg(key);
        let output = command.env("SSH_AUTH_SOCK", &self.socket).output();
        let output = output.expect("run ssh-add");
        assert!(output.status.success(), "{output:?}");
    }

    /// Takes all keys away.
    pub fn forget(&self) {
        let mut command = Command::new("ssh-add");
        let output = command.args(["-q", "-D"]).env("SSH_AUTH_SOCK", &self.socket).output();
        assert!(output.expect("run ssh-add").status.success());
    }

    /// Adds that many keys that nobody has seen.
    pub fn add_strangers(&self, count: usize) {
        for number in 0..count {
            let key = self.directory.file(&format!("stranger-{number}"));
            keygen(&key, &["-t", "ed25519"]);
            self.add(&key);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
        wait_until("the agent is gone", LIMIT, || !self.listens());
    }
}
