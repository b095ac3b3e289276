//! What is accepted and refused on the command line, and how it is told.

use super::*;
use crate::cli::argument::encode;
use crate::cli::{has_command, help};
use std::ffi::OsStr;
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// In an environment that says nothing.
fn parse(args: &[OsString]) -> Result<Request> {
    super::parse(args, &|_| None)
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn run(line: &str) -> Invocation {
    run_words(&words(line))
}

fn run_words(words: &[OsString]) -> Invocation {
    match parse(words) {
        Ok(Request::Run(invocation)) => *invocation,
        other => panic!("{words:?}: {other:?}"),
    }
}

/// The message of the usage error that `words` must give: one printable line.
fn refusal(words: &[OsString]) -> String {
    let error = match parse(words) {
        Err(error) => error,
        other => panic!("{words:?}: {other:?}"),
    };
    assert_eq!(error.code, Code::Usage, "{words:?}");
    let message = error.to_string();
    let printable = !message.is_empty() && !message.chars().any(char::is_control);
    assert!(printable && message.len() < 1000, "{words:?}: {message:?}");
    message
}

#[test]
fn the_contracts_examples() {
    for (line, targets) in [
        ("tri-gw licserver:9999", "MLM_LICENSE_FILE=licserver:9999"),
        ("tri-gw ANSYSLMD_LICENSE_FILE=lic:1055+1793", "ANSYSLMD_LICENSE_FILE=lic:1055+1793"),
        ("tri-gw A=lic1:1700 A=lic2:1700", "A=lic1:1700 A=lic2:1700"),
        ("tri-gw A=a:2+3,b:2+3,c:2+3", "A=a:2+3,b:2+3,c:2+3"),
        ("-- tri-gw a:9 R=b:5", "MLM_LICENSE_FILE=a:9 R=b:5"),
        ("tri-gw -v -- a:9 R=b:5", "MLM_LICENSE_FILE=a:9 R=b:5"),
    ] {
        let given = run(line);
        let printed: Vec<String> = given.targets.iter().map(Target::to_string).collect();
        assert_eq!(printed.join(" "), targets);
        assert_eq!(given.gateways, ["tri-gw"]);
        assert!(given.background && given.probe && given.forwards.is_empty());
        assert_eq!((given.tries, given.timeout), (10, None));
        assert_eq!(given.deadline, Duration::from_secs(300));
        assert_eq!((given.watch, given.shell), (Watch::Session, Shell::Sh));
        assert_eq!(given.value(false, 5, "h"), "5@h");
        assert_eq!(given.value(true, 5, "h"), "http://h:5");
    }
}

#[test]
fn a_command_stands_after_a_target() {
    for (line, ours, command) in [
        ("gw h:1 -- matlab -batch main", "gw h:1", "matlab -batch main"),
        ("gw h:1 -- -f", "gw h:1", "-f"),
        ("gw h:1 -- a -- b", "gw h:1", "a -- b"),
        ("gw h:1 -- -- b", "gw h:1", "-- b"),
        ("gw h:1 R=h:2 -v -- R=h:3", "gw h:1 R=h:2", "R=h:3"),
        ("-- gw h:1 -- a", "gw h:1", "a"),
        ("gw -- h:1 -- a -h", "gw h:1", "a -h"),
        // The first is a file.
        ("-E -- gw h:1 -- a", "gw h:1", "a"),
        ("--pid-var P gw h:1 -- a --generate man", "gw h:1", "a --generate man"),
        ("-L 1:h:1 gw -- a", "gw", "a"),
        ("-L 1:h:1 -- gw -- a", "gw", "a"),
        ("-L 1:h:1 gw h:1 -- a", "gw h:1", "a"),
        ("gw h:1 --check -- a", "gw h:1", "a"),
    ] {
        let given = run(line);
        let words = |words: &[OsString]| words.join(OsStr::new(" ")).into_string();
        assert_eq!(words(&given.command).as_deref(), Ok(command), "{line}");
        let targets =
            given.targets.iter().map(|t| format!(" {t}").replace("MLM_LICENSE_FILE=", ""));
        assert_eq!(given.gateways.join(",") + &targets.collect::<String>(), ours, "{line}");
        assert!(given.background && !given.announces(), "{line}");
        assert_eq!(given.becomes_command(), !given.check, "{line}");
    }
    // Its words are whatever they are, and of any length.
    let odd = ["gw", "h:1", "--", "", "a\n"].map(OsString::from);
    let odd = [&odd[..], &[OsString::from_vec(vec![b'x', 0xff]), "y".repeat(5000).into()]].concat();
    assert_eq!(run_words(&odd).command, odd[3..]);
    for (line, is_there) in [
        ("gw h:1 --bogus -- true", true),
        ("gw h:0 -- true", true),
        ("--bogus -- gw h:1", false),
        ("--bogus -- gw h:1 -- true", true),
        ("-vZ gw h:1 --", true),
        ("gw h:1 -l", false),
        ("--=x --", false),
    ] {
        assert_eq!(has_command(&words(line), &|_| None), is_there, "{line}");
    }
}

/// The lines of site documentation, `ssh` left out.
#[test]
fn lines_written_for_ssh() {
    for (line, gateway, forwards, background) in [
        ("tri-gw -L 27000:licserver:27000 -N -f", "tri-gw", "27000:licserver:27000", true),
        ("-N -L 8889:127.0.0.1:13450 user@login", "user@login", "8889:127.0.0.1:13450", false),
        ("-L 8888:localhost:8888 host -N", "host", "8888:localhost:8888", false),
        (
            "-N -f -i ~/.keypairs/k.pem -L localhost:7005:localhost:8889 ubuntu@10.0.1.128",
            "ubuntu@10.0.1.128",
            "localhost:7005:localhost:8889",
            true,
        ),
        ("-L 5433:pgsql-vm:5432 user@login", "user@login", "5433:pgsql-vm:5432", false),
        ("-fNL 1055:h:1055 gw", "gw", "1055:h:1055", true),
        ("-NfL1055:h:1055 -NN -ffnT gw", "gw", "1055:h:1055", true),
        ("gw -NTnxXYaAkKyvvvL 1:h:1 -L2:h:2", "gw", "1:h:1 2:h:2", false),
        ("-N -p22 ssh://u@gw:2222 -L/tmp/s:/run/t", "ssh://u@gw:2222", "/tmp/s:/run/t", false),
        ("-NL 1:h:1 dom\\me@gw", "dom\\me@gw", "1:h:1", false),
    ] {
        let given = run(line);
        let printed: Vec<String> = given.forwards.iter().map(Forward::to_string).collect();
        assert_eq!(printed.join(" "), forwards);
        assert_eq!(given.gateways, [gateway]);
        assert_eq!(given.background, background, "{line}");
        assert!(given.targets.is_empty());
    }
    assert!(run("-L 1:h:1 gw h:2").background);
    assert!(!run("-L 1:h:1 gw h:2 --foreground").background);
}

#[test]
fn ssh_options_are_handed_on_in_order() {
    for (line, expected) in [
        ("gw h:1", ""),
        ("-p22 gw h:1 -4 -oX=1 -o Y", "-p 22 -4 -o X=1 -o Y"),
        ("-46 -l me -i a -i b -Fnone gw h:1", "-4 -6 -l me -i a -i b -F none"),
        (
            "-CJ a,b -b 1.2.3.4 gw -B eth0 h:1 -c +aes -m x -6 -4",
            "-J a,b -b 1.2.3.4 -B eth0 -c +aes -m x -6 -4",
        ),
        ("-NfvCp 2200 -E log gw h:1", "-p 2200"),
        ("-o -N gw h:1", "-o -N"),
    ] {
        let given = run(line);
        assert_eq!(given.ssh_options, words(expected), "{line}");
    }
    assert!(run("-NC gw h:1").compress);
}

#[test]
fn values_of_our_own() {
    let given =
        run("gw A=h:1 --tries 3 --tries=1000 --timeout 5 --deadline=86400 --no-probe --watch 42 \
         --listen 10.0.0.1 --allow a,b --allow=[fe80::1] --allow-any-user --format {host}:{port} \
         --shell fish --pid-var LIC_PID --log x --log y -q");
    assert_eq!((given.tries, given.timeout), (1000, Some(Duration::from_secs(5))));
    assert_eq!(given.deadline, Duration::from_secs(86400));
    assert_eq!(given.watch, Watch::Pid(42));
    assert_eq!(given.listen, Some([10, 0, 0, 1].into()));
    assert_eq!(given.allow, ["a", "b", "fe80::1"]);
    assert!(given.allow_any_user && !given.probe);
    assert_eq!(given.value(true, 5, "h"), "h:5");
    assert_eq!((given.shell, given.pid_var.as_deref()), (Shell::Fish, Some("LIC_PID")));
    assert_eq!(given.log.map(|log| log.path), Some("y".into()));
    assert_eq!(given.verbosity, Verbosity::Quiet);
    assert_eq!(run("gw h:1 -qv").verbosity, Verbosity::Verbose);
    assert_eq!(run("gw h:1 -v -q").verbosity, Verbosity::Quiet);
    assert_eq!(run("gw h:1 --no-watch").watch, Watch::Nothing);
    assert_eq!(run("gw h:1 --listen ::1").listen, Some(Ipv6Addr::LOCALHOST.into()));
    assert!(run("gw h:1 --listen [::] --allow a").listen.is_some());

    // As from --allow "$(scontrol show hostnames)" on a large machine.
    let nodes: Vec<String> = (0..2000).map(|i| format!("node{i}")).collect();
    let mut line = words("gw h:1 --listen 0.0.0.0 --allow");
    line.push(nodes.join("\n").into());
    assert_eq!(run_words(&line).allow, nodes);
}

#[test]
fn help_and_version_stand_alone() {
    for line in ["-h", "--help"] {
        assert!(matches!(parse(&words(line)), Ok(Request::Help)), "{line}");
    }
    for line in ["gw -host:1", "gw h:1 --help", "-V gw h:1"] {
        let error = parse(&words(line)).expect_err(line);
        assert!(error.to_string().ends_with("stands alone"), "{error}");
    }
    assert!(matches!(parse(&words("-V")), Ok(Request::Version)));
    let help = help();
    assert!(help.starts_with("usage: eval $(licfwd "));
    assert!(help.lines().count() < 48);
    for line in help.lines() {
        assert!(line.len() <= 80 && line == line.trim_end(), "{line:?}");
    }
    for row in OPTIONS.iter().filter(|row| row.kind != Kind::Refused) {
        let shown = if row.kind == Kind::Accepted { row.short.into() } else { dashed(row.key()) };
        assert!(help.contains(&shown), "{row:?}");
    }
}

#[test]
fn texts_are_generated_alone() {
    for (name, what) in Generated::ALL {
        for line in [format!("--generate {name}"), format!("--generate={name}")] {
            let request = parse(&words(&line));
            assert!(matches!(request, Ok(Request::Generate(w)) if w == what), "{line}");
        }
    }
    for line in ["--generate man gw h:1", "--generate roff"] {
        assert_eq!(parse(&words(line)).expect_err(line).code, Code::Usage);
    }
}

#[test]
fn a_check_needs_no_target_and_tries_once() {
    let check = run("--check gw");
    assert!(check.check && check.targets.is_empty() && !check.announces());
    assert_eq!(check.tries, 1);
    let check = run("--check --tries 3 gw h:1");
    assert!(!check.announces());
    assert_eq!(check.tries, 3);
    assert!(run("gw h:1").announces());
}

#[test]
fn no_option_stands_twice_in_the_table() {
    for (i, a) in OPTIONS.iter().enumerate() {
        for b in &OPTIONS[i + 1..] {
            assert!(a.short.is_empty() || a.short != b.short, "{a:?}");
            assert!(a.long.is_empty() || a.long != b.long, "{a:?}");
        }
    }
}

#[test]
fn a_list_of_gateways() {
    for (word, names) in [
        ("l1,l2,l3", "l1 l2 l3"),
        ("bob@l1,l2,eve@l3,l4", "bob@l1 bob@l2 eve@l3 eve@l4"),
        ("l1,bob@l2,l1", "l1 bob@l2 bob@l1"),
        ("l1,l2,l1,l2", "l1 l2"),
        ("a@b@l1,l2", "a@b@l1 a@b@l2"),
        ("ssh://bob@l1:2222,l2,ssh://l3", "ssh://bob@l1:2222 bob@l2 ssh://bob@l3"),
        ("l1,ssh://l2:22", "l1 ssh://l2:22"),
    ] {
        assert_eq!(run(&format!("{word} h:1")).gateways.join(" "), names, "{word}");
        assert_eq!(run(&format!("-L 1:h:1 {word}")).gateways.join(" "), names, "{word}");
    }
}

#[test]
fn bad_lines() {
    for (line, why) in [
        ("", "no gateway"),
        ("-v", "no gateway"),
        (
            "gw",
            "nothing to forward: \"gw\" is taken for the gateway; a license server has a port (lic",
        ),
        ("me@gw", "nothing to forward: licfwd [options] [user@]gateway target"),
        ("27000", "no license server before its ports: licserver:27000, for example"),
        ("lic:9999", "no gateway before target"),
        ("A=lic:9999 gw", "before the gateway"),
        ("- h:1", "begin with '-'"),
        ("-- -oProxyCommand=x h:1", "begin with '-'"),
        ("me@-gw h:1", "begin with '-'"),
        ("@gw h:1", "expected a user"),
        ("me@ h:1", "expected [user@]gateway"),
        ("g'w h:1", "expected [user@]gateway"),
        ("l1,,l2 h:1", "missing beside a comma"),
        ("l1, h:1", "missing beside a comma"),
        (",l1 h:1", "missing beside a comma"),
        ("l1,me@ h:1", "expected [user@]gateway"),
        ("l1,-l2 h:1", "begin with '-'"),
        ("l1,l2:22 h:1", "given with -p 22"),
        ("g;w h:1", "expected [user@]gateway"),
        ("$(id) h:1", "expected [user@]gateway"),
        ("gw hostname", "no remote command"),
        ("gw ls -la h:1", "no remote command"),
        ("gw rsync --server h:1", "no remote command"),
        ("-L 1:h:1 gw exit", "no remote command"),
        ("gw h:1 true", "one of this node's stands after --"),
        ("gw h:1 --", "expected a command after --"),
        ("gw h:1 --shell sh -- true", "--shell: no shell evaluates anything"),
        ("gw -f h:1 -- true", "-f: the command runs in the foreground"),
        ("--foreground -L 1:h:1 gw -- true", "--foreground: the command runs"),
        ("gw h:1 --watch 5 -- true", "--watch: the tunnel lives as long as the command"),
        ("--check --no-watch gw h:1 -- true", "--no-watch: the tunnel lives"),
        ("gw true -- true", "no remote command"),
        ("gw -- h:1 true", "no remote command"),
        ("gw -- true", "no remote command"),
        ("gw h:1 --frobnicate -- true", "unknown option \"--frobnicate\""),
        ("gw h:1 -tries 5 -- true", "did you mean --tries"),
        ("gw h:0", "1 to 65535"),
        ("gw 27000:27001", "licserver:27000+27001, for example"),
        ("-L 1:h gw", "-L \"1:h\""),
        ("-L", "-L: expected SPEC"),
        ("gw h:1 --tries", "--tries: expected N"),
        ("gw h:1 --no-probe=1", "--no-probe: takes no value"),
        ("gw h:1 --tries 0", "from 1 to 1000"),
        ("gw h:1 --tries 1001", "from 1 to 1000"),
        ("gw h:1 --tries +5", "from 1 to 1000"),
        ("gw h:1 --tries 0 --tries 5", "from 1 to 1000"),
        ("gw h:1 --tries 99999999999999", "from 1 to 1000"),
        ("gw h:1 --timeout -1", "from 1 to 86400"),
        ("gw h:1 --timeout 1.5", "from 1 to 86400"),
        ("gw h:1 --deadline 86401", "from 1 to 86400"),
        ("gw h:1 --watch 0", "from 1 to"),
        ("gw h:1 --watch $$", "from 1 to"),
        ("gw h:1 --watch 5 --no-watch", "choose one"),
        ("gw h:1 -f --foreground", "choose one"),
        ("gw h:1 --listen 10.0.0.1", "needs --allow"),
        ("gw h:1 --listen localhost --allow a", "expected an address"),
        ("gw h:1 --listen [1.2.3.4] --allow a", "expected an address"),
        ("gw h:1 --allow a", "needs --listen"),
        ("gw h:1 --listen ::1 --allow ,", "names no host"),
        ("gw h:1 --listen ::1 --allow=", "--allow: expected something"),
        ("gw h:1 --listen ::1 --allow a;b", "host \"a;b\""),
        ("gw h:1 --listen ::1 --allow -a", "host \"-a\""),
        ("gw https://a https://b", "https_proxy stands there twice"),
        ("gw https://a:1+2", "no + here"),
        ("gw h:1 --format {host}", "--format"),
        ("gw h:1 --format $(id){port}", "--format"),
        ("gw h:1 --shell bash", "expected sh (also for bash"),
        ("gw h:1 --pid-var PATH", "--pid-var"),
        ("gw h:1 --pid-var 1A", "--pid-var"),
        ("gw A=h:1 --pid-var A", "a target sets that"),
        ("gw h:1 --pid-var MLM_LICENSE_FILE", "a target sets that"),
        ("gw h:1 -p 0", "1 to 65535"),
        ("gw h:1 -p no-such", "1 to 65535"),
        ("gw h:1 -l a;b", "expected a user"),
        ("gw h:1 -l -x", "expected a user"),
        ("gw h:1 -J -oProxyCommand=x", "not an option"),
        ("gw h:1 -o LocalForward=1", "write it with -L"),
        ("gw h:1 -D 5", "-D: licfwd is no SOCKS proxy"),
        ("gw h:1 -Nt -D 5", "-t: "),
        ("-R 1:h:1 gw", "-R: "),
        ("-W h:1 gw", "-W: "),
        ("-g -L 1:h:1 gw", "-g: "),
        ("-fNM -S x gw", "-M: "),
        ("-S x gw", "-S: "),
        ("-O check gw", "-O: "),
        ("-w 0 gw", "-w: "),
        ("-Q key", "-Q: "),
        ("-e none gw", "-e: "),
        ("-I x gw", "-I: "),
        ("-G gw", "-G: "),
        ("-P x gw", "-P: "),
        ("-s gw", "-s: "),
        ("gw h:1 --trys 5", "did you mean --tries"),
        ("gw h:1 --alow-any-user", "did you mean --allow-any-user"),
        ("gw h:1 --no-prob", "did you mean --no-probe"),
        ("gw h:1 -tries 5", "did you mean --tries"),
        ("gw h:1 -timeout 5", "did you mean --timeout"),
        ("gw h:1 --frobnicate", "unknown option \"--frobnicate\": licfwd --help"),
        ("gw h:1 -Z", "unknown option \"-Z\""),
        ("gw h:1 --=x", "unknown option"),
    ] {
        let message = refusal(&words(line));
        assert!(message.contains(why), "{line:?}: {message}");
    }
}

#[test]
fn bad_words() {
    let long = "a".repeat(5000);
    for (words, why) in [
        (vec!["", "h:1"], "empty argument"),
        (vec!["gw", ""], "empty argument"),
        (vec!["gw", "h:1", "-i", ""], "-i: expected something"),
        (vec!["gw", "h:1", "--log", ""], "--log: expected something"),
        (vec!["gw", "h:1", "-o", &long], "longer than 4096"),
        (vec![&long, "h:1"], "longer than 4096"),
        (vec!["gw", &long], "longer than 4096"),
        (vec!["gw", "a b:1"], "host \"a b\""),
        (vec!["g w", "h:1"], "without blanks"),
        (vec!["gw\n", "h:1"], "control character"),
        (vec!["gw", "h\u{85}:1"], "control character"),
        (vec!["gw", "h:1", "-o", "a\nb"], "control character"),
        (vec!["gw", "h:1", "--\u{1b}[2J"], "unknown option"),
        (vec!["gw", "h:1", "-\u{7}"], "unknown option"),
    ] {
        let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        let message = refusal(&words);
        assert!(message.contains(why), "{words:?}: {message}");
    }
}

#[test]
fn only_file_names_may_be_any_bytes() {
    let odd = OsStr::from_bytes(b"a\xff\xc3\xa9\xf4\x8f\xbe\x80\n").to_owned();
    assert_eq!(decode(&encode(&odd)), odd);
    for option in ["-i", "-F", "--log", "-E"] {
        let mut line = words("gw h:1");
        line.extend([option.into(), odd.clone()]);
        let given = run_words(&line);
        let file = given.ssh_options.last().cloned();
        assert_eq!(file.or(given.log.map(|log| log.path.into_os_string())), Some(odd.clone()));
    }
    let bad = OsStr::from_bytes(b"h\xff:1").to_owned();
    for option in ["-o", "-L", "-J", "--format", "--pid-var", "--allow", "--shell", "--watch"] {
        let mut line = words("gw h:1 --listen ::1");
        line.extend([option.into(), bad.clone()]);
        refusal(&line);
    }
    assert!(refusal(&["gw".into(), bad.clone()]).contains(r"h\xFF:1"));
    refusal(&[bad, "h:1".into()]);
}

#[test]
fn the_shell_is_known_even_if_nothing_else_is() {
    for (line, shell) in [
        ("", Shell::Sh),
        ("--bogus --shell fish", Shell::Fish),
        ("--shell=csh -D", Shell::Csh),
        ("--shell fish --shell csh gw", Shell::Csh),
        ("--shell fish --shell tcsh", Shell::Fish),
        ("--shell", Shell::Sh),
        ("gw -- --shell fish", Shell::Sh),
    ] {
        assert_eq!(shell_hint(&words(line)), shell, "{line}");
    }
}

/// Random bytes, mixed with pieces that lead deep into the parser.
#[test]
fn nothing_panics_and_every_message_is_printable() {
    const PIECES: &[&str] = &[
        "gw", "h:1", "A=", "-L", "1:h:1", "--", "-", "[", "]", ":", "+", ",", "@", "/s", "--allow",
        "--listen", "::1", "--format", "{port}", "--tries", "--shell", "-o", "-i", "--", "=", "\\",
    ];
    for _ in 0..30_000 {
        let line: Vec<OsString> = (0..rand::random_range(0..6))
            .map(|_| {
                let mut word = Vec::new();
                for _ in 0..rand::random_range(0..4) {
                    match rand::random_range(0..3) {
                        0 => word.extend(rand::random::<[u8; 3]>()),
                        _ => word.extend(PIECES[rand::random_range(0..PIECES.len())].as_bytes()),
                    }
                }
                word.retain(|byte| *byte != 0);
                OsString::from_vec(word)
            })
            .collect();
        shell_hint(&line);
        if parse(&line).is_err() {
            refusal(&line);
        }
    }
}

/// Goal: what the environment says stands for the long form, and is told where it cannot.
#[test]
fn the_environment_stands_for_words() {
    let environment = |name: &str| {
        let value = match name {
            "LICFWD_GATEWAY" => "l1,l2",
            "LICFWD_LOG" => "/logs/%j-%h",
            "SLURM_JOB_ID" => "4711",
            "ONE" => "27000@a",
            "LIST" => "1@a:2@b",
            "TRIAD" => "1@a,1@b,1@c",
            "FILE" => "/opt/license.lic",
            "HERE" => "4242@localhost",
            _ => return None,
        };
        Some(value.into())
    };
    let run = |line: &str| match super::parse(&words(line), &environment) {
        Ok(Request::Run(invocation)) => *invocation,
        other => panic!("{line}: {other:?}"),
    };
    for (short, long) in [
        ("a:1", "l1,l2 a:1"),
        ("27000@a", "l1,l2 a:27000"),
        ("A=27000@a B=b:1", "l1,l2 A=a:27000 B=b:1"),
        ("A=1@a:2@b", "l1,l2 A=a:1 A=b:2"),
        ("ONE", "l1,l2 ONE=a:27000"),
        ("gw LIST", "gw LIST=a:1 LIST=b:2"),
        ("gw TRIAD", "gw TRIAD=a:1,b:1,c:1"),
        ("-f -L 1:a:1", "-f -L 1:a:1 l1,l2"),
        ("ONE -- x", "l1,l2 ONE=a:27000 -- x"),
    ] {
        let (short, long) = (run(short), run(long));
        assert_eq!((&short.gateways, &short.targets), (&long.gateways, &long.targets));
        assert_eq!(short.command, long.command);
    }
    let log = run("a:1").log.expect("a log");
    assert!(log.by_default && log.path.starts_with("/logs"), "{log:?}");
    assert!(log.path.display().to_string().contains("/4711-"), "{log:?}");
    assert_eq!(run("HERE=a:1").replaced, [("HERE".to_owned(), "4242@localhost".to_owned())]);
    for (line, why) in [
        ("gw FILE", "is a file name"),
        ("gw UNSET", "is not set here; load"),
        ("gw HERE", "leads to this node"),
        ("a:1 gw", "stands before the gateway"),
        ("gw licserver", "licserver has no port: licserver:27000"),
    ] {
        let error = super::parse(&words(line), &environment).expect_err(line);
        assert!(error.code == Code::Usage && error.to_string().contains(why), "{line}: {error}");
    }
}
