//! What a first user writes instead of the right line, and what licfwd makes of it: an ordinary
//! user in a clean home, in bash, dash and tcsh.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::rig::{
    Cluster, Gateway, Job, LIMIT, LicenseServer, Pty, Service, a_cluster, long, process, skip,
    wait_until,
};

/// `text` with N for each run of digits before `@localhost`.
fn without_ports(text: &str) -> String {
    let parts = text.split("@localhost");
    let parts = parts.map(|part| part.trim_end_matches(|c: char| c.is_ascii_digit()));
    parts.collect::<Vec<_>>().join("N@localhost")
}

/// Goal: the short forms announce what the long form does: for one server, a triad and a
/// list, as `port@host`, as the variable that a module has set, and without a gateway.
#[test]
fn short_forms() {
    let cluster = a_cluster!();
    cluster.with_a_key();
    for (long, typed, set) in [
        ("LM=licserver:27000", "LM=27000@licserver", "27000@licserver"),
        ("LM=a:27000,b:27000,c:27000", "LM=27000@a,27000@b,27000@c", "27000@a,27000@b,27000@c"),
        ("LM=lic1:1700 LM=lic2:27000", "LM=1700@lic1:27000@lic2", "1700@lic1:27000@lic2"),
    ] {
        let call = |text: &str| {
            let outcome = cluster.paste("sh", text);
            cluster.job().end();
            assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{text}: {outcome:?}");
            without_ports(&outcome.stdout)
        };
        let announced = call(&format!("licfwd tri-gw {long} | cat"));
        assert!(announced.starts_with("export LM=N@localhost"), "{announced}");
        assert_eq!(announced.matches("N@localhost").count(), set.matches('@').count());
        for short in [
            format!("licfwd tri-gw {typed} | cat"),
            format!("LM={set} licfwd tri-gw LM | cat"),
            format!("LICFWD_GATEWAY=tri-gw licfwd {long} | cat"),
            format!("LICFWD_GATEWAY=l1,l2 LM={set} licfwd LM | cat"),
        ] {
            assert_eq!(call(&short), announced, "{short}");
        }
    }
}

/// Who makes the mistake.
#[derive(Clone, Copy, PartialEq)]
enum Home {
    /// The gateway takes the user's key.
    WithKey,
    /// There is no key.
    Empty,
    /// There is one, which the gateway does not know.
    Stranger,
    /// There is the one of the recipe, and nobody names it.
    Unnamed,
}
use Home::{Empty, Stranger, Unnamed, WithKey};

/// What is written, how it ends, and what is told about it.
type Mistake = (Home, &'static str, i32, &'static [&'static str]);

/// For sh; in tcsh the line below.
const MISTAKES: [Mistake; 27] = [
    // Targets.
    (WithKey, "eval $(licfwd tri-gw licserver) || exit", 64, &["no port: licserver:27000, for"]),
    (WithKey, "eval $(licfwd licserver) || exit", 64, &["taken for the gateway; a license server"]),
    (WithKey, "eval $(licfwd licserver:27000) || exit", 64, &["no gateway", "LICFWD_GATEWAY"]),
    (
        WithKey,
        "eval $(licfwd tri-gw licserver:27000,27001) || exit",
        64,
        &["write licserver:27000+27001, or licserver:27000 alone for FlexNet"],
    ),
    (
        WithKey,
        "eval $(licfwd tri-gw licserver:27000:27001) || exit",
        64,
        &["write licserver:27000+27001"],
    ),
    (WithKey, "eval $(licfwd tri-gw licserver:1055+VENDOR) || exit", 64, &["leave +VENDOR out"]),
    (WithKey, "eval $(licfwd tri-gw 9999:licserver:9999) || exit", 64, &["write licserver:9999"]),
    (
        WithKey,
        "eval $(licfwd tri-gw @licserver) || exit",
        64,
        &["27000 to 27009", "licserver:27000"],
    ),
    (WithKey, "eval $(licfwd tri-gw 27000) || exit", 64, &["licserver:27000, for example"]),
    (WithKey, "eval $(licfwd licserver:27000 tri-gw) || exit", 64, &["before the gateway"]),
    (WithKey, "eval $(licfwd tri-gw NO_SUCH_FILE) || exit", 64, &["load the software's module"]),
    (
        WithKey,
        "export LM=/opt/license.lic; eval $(licfwd tri-gw LM) || exit",
        64,
        &["is a file name", "LM=licserver:27000"],
    ),
    (
        WithKey,
        "LICFWD_GATEWAY=tri-gw; export LICFWD_GATEWAY; eval $(licfwd licserver) || exit",
        64,
        &["a license server has a port (licserver:27000)"],
    ),
    (
        WithKey,
        "LICFWD_GATEWAY=tri-gw; export LICFWD_GATEWAY; eval $(licfwd LM_LICENSE_FILE) || exit",
        64,
        &["load the software's module"],
    ),
    // Names.
    (WithKey, "eval $(licfwd tri-gv licserver:9999) || exit", 78, &["tri-gv", "check the name"]),
    (
        WithKey,
        "eval $(licfwd --tries 1 tri-gw licsrever:9999) || exit",
        69,
        &["or its name is unknown there", "ssh -W licsrever:9999 tri-gw"],
    ),
    (
        WithKey,
        "eval $(licfwd --via ssh tri-gw licsrever:9999) || exit",
        78,
        &["name or service not known; is the name misspelt?"],
    ),
    // Keys.
    (Empty, "eval $(licfwd tri-gw licserver:9999) || exit", 77, &["man licfwd, section KEYS"]),
    (
        Stranger,
        "eval $(licfwd tri-gw licserver:9999) || exit",
        77,
        &["ssh-copy-id -i ", "chmod go-w"],
    ),
    (
        Stranger,
        "eval $(licfwd --via ssh tri-gw licserver:9999) || exit",
        77,
        &["man licfwd, section KEYS"],
    ),
    (
        Unnamed,
        "eval $(licfwd tri-gw licserver:9999) || exit",
        77,
        &["/.ssh/id_licfwd is there: add -i"],
    ),
    // Nobody evaluates the line, or twice.
    (
        WithKey,
        "licfwd tri-gw licserver:9999",
        0,
        &["no shell evaluates", "write eval $(licfwd ...)"],
    ),
    (
        WithKey,
        "licfwd tri-gw licserver:9999 >both 2>&1; cat both >&2",
        0,
        &["no shell evaluates", "write eval $(licfwd ...)", "export MLM_LICENSE_FILE="],
    ),
    (
        WithKey,
        "eval $(licfwd tri-gw licserver:9999) && eval $(licfwd tri-gw licserver:27000)",
        0,
        &["is replaced; for both servers"],
    ),
    (
        WithKey,
        "eval $(timeout 2 licfwd -L 9999:licserver:9999 tri-gw); true",
        0,
        &["serves in the foreground"],
    ),
    // No licfwd: the long form notices, the short one cannot.
    (
        WithKey,
        "PATH=/usr/bin:/bin; lic=$(licfwd tri-gw licserver:9999) && eval \"$lic\" || exit; echo on",
        127,
        &["not found"],
    ),
    (
        WithKey,
        "PATH=/usr/bin:/bin; eval $(licfwd tri-gw licserver:9999) || exit; echo on",
        0,
        &["not found"],
    ),
];

/// In tcsh.
const IN_TCSH: [Mistake; 6] = [
    (WithKey, "eval `licfwd --shell csh tri-gw licserver` || exit $status", 64, &["has no port"]),
    (
        WithKey,
        "eval `licfwd --shell csh tri-gw 9999:licserver:9999` || exit $status",
        64,
        &["write licserver:9999"],
    ),
    (WithKey, "eval `licfwd --shell csh tri-gv licserver:9999` || exit $status", 78, &["tri-gv"]),
    (
        Empty,
        "eval `licfwd --shell csh tri-gw licserver:9999` || exit $status",
        77,
        &["section KEYS"],
    ),
    (
        WithKey,
        "setenv LM /opt/license.lic; eval `licfwd --shell csh tri-gw LM` || exit $status",
        64,
        &["is a file name"],
    ),
    (WithKey, "licfwd --shell csh tri-gw licserver:9999", 0, &["write eval `licfwd"]),
];

fn settle(cluster: &Cluster, home: Home) {
    cluster.with_a_key();
    let ssh = cluster.home().join(".ssh");
    match home {
        WithKey => {}
        Empty => cluster.clean_home(),
        Stranger => fs::write(ssh.join("authorized_keys"), "").expect("authorized_keys"),
        Unnamed => {
            for end in ["", ".pub"] {
                let [old, new] = ["id_ed25519", "id_licfwd"].map(|name| format!("{name}{end}"));
                fs::rename(ssh.join(old), ssh.join(new)).expect("the recipe's key");
            }
        }
    }
}

/// Goal: each mistake of the first five minutes has its message beside it.
#[test]
fn mistakes() {
    let cluster = a_cluster!();
    let turns = |(turn, mistake): (usize, &Mistake)| {
        // They take turns, and with `--long` each makes all.
        let shells =
            if long() { &["bash", "dash"][..] } else { &["bash", "dash"][turn % 2..][..1] };
        shells.iter().map(|shell| (*shell, *mistake)).collect::<Vec<_>>()
    };
    let of_sh = MISTAKES.iter().enumerate().flat_map(turns);
    let in_tcsh = IN_TCSH.iter().map(|mistake| ("tcsh", *mistake));
    for (shell, (home, text, code, told)) in of_sh.chain(in_tcsh) {
        settle(&cluster, home);
        let outcome = match text.starts_with("licfwd") && !text.contains('>') {
            // Where Slurm's log is.
            true => cluster.paste(shell, &format!("{text} >~/both; cat ~/both")),
            false => cluster.paste(shell, text),
        };
        eprintln!("{shell}$ {text}\n{}", outcome.stderr);
        assert_eq!(outcome.code, code, "{shell}: {text}: {outcome:?}");
        for words in told {
            assert!(outcome.stderr.contains(words), "{shell}: {text}: {words}: {outcome:?}");
        }
    }
}

/// Goal: at a prompt the note that nobody evaluates the line stands on the screen; the
/// right line works there without `|| exit`, and `kill` ends its tunnel.
#[test]
fn at_a_prompt() {
    if let Err(why) = Pty::check() {
        skip!("{why}");
    }
    let cluster = a_cluster!();
    cluster.with_a_key();
    let text = "exec bash --norc --noprofile -i";
    let mut prompt = Pty::start(cluster.job(), &cluster.shell("bash", text));
    prompt.enter("licfwd tri-gw licserver:9999; echo its code: $?.");
    prompt.expect("standard output is the terminal, and no shell evaluates the line");
    prompt.expect("write eval $(licfwd ...)");
    prompt.expect("its code: 0.");
    prompt
        .enter("eval $(licfwd --pid-var LICPID tri-gw licsrever:9999 --tries 1); echo still: $?.");
    prompt.expect("ssh -W licsrever:9999");
    prompt.expect("still: 69.");
    prompt.enter("eval $(licfwd --pid-var LICPID tri-gw licserver:9999); echo p''id: $LICPID.");
    prompt.expect("pid: ");
    let pid = prompt.expect(".");
    let pid = pid.parse().unwrap_or_else(|_| panic!("a process id: {pid}"));
    assert!(process::alive(pid));
    prompt.enter("kill $LICPID");
    wait_until("the tunnel ends", LIMIT, || !process::alive(pid));
    prompt.enter("exit");
    prompt.wait();
    cluster.job().wait_until_empty();
}

/// Goal: a gateway that nobody has logged in to by hand is told in two short lines, with
/// the call that was typed, and nothing in it that was not.
#[test]
fn an_unknown_gateway() {
    let cluster = a_cluster!();
    cluster.with_a_key();
    cluster.forget_the_gateway();
    for (call, by_hand) in [
        ("licfwd tri-gw licserver:9999", "ssh tri-gw"),
        ("licfwd -p 22 tri-gw licserver:9999", "ssh -p 22 tri-gw"),
        (
            "licfwd -o StrictHostKeyChecking=yes -o 'User user' tri-gw licserver:9999",
            "ssh -o StrictHostKeyChecking=ask -o StrictHostKeyChecking=yes -o 'User user' tri-gw",
        ),
    ] {
        let outcome = cluster.paste("dash", &format!("eval $({call}) || exit"));
        assert_eq!(outcome.code, 76, "{outcome:?}");
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.len() < 280), "{outcome:?}");
        assert!(lines[1].ends_with(&format!("comparing that: {by_hand}")), "{outcome:?}");
        eprintln!("dash$ {call}\n{}", outcome.stderr);
    }
    // Once by hand, as it says: somebody types `yes`.
    let file = cluster.home().join(".ssh");
    let mode = fs::metadata(&file).expect("~/.ssh").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let by_hand = cluster.paste("dash", "ssh -o StrictHostKeyChecking=accept-new tri-gw true");
    assert_eq!(by_hand.code, 0, "{by_hand:?}");
    let outcome = cluster.paste("dash", "eval $(licfwd tri-gw licserver:9999) || exit");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
}

/// Goal: a log that a module asks for says whose it is, and fails no job.
#[test]
fn a_log_by_default() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    let job = Job::new();
    let text = "export SLURM_JOB_ID=4711 SLURMD_NODENAME=n
                LICFWD_LOG=$HOME/log-%j licfwd -F $CONFIG gw 127.0.0.1:$PORT
                LICFWD_LOG=/no/such/place licfwd -F $CONFIG gw 127.0.0.1:$PORT";
    let outcome = job.run(&mut job.script("sh", text, &gateway, server.port()));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("LICFWD_LOG: cannot open"), "{outcome:?}");
    let log = fs::read_to_string(job.directory().file("log-4711")).expect("the log");
    let first = log.lines().next().expect("a line");
    assert!(first.contains("licfwd 0.") && first.ends_with("Slurm job 4711"), "{log}");
}
