//! What is accepted and refused as a target and a forward.

use super::*;
use std::process::{Command, Stdio};

fn parse_target(text: &str) -> Result<Target> {
    parse_targets(text).map(|mut targets| targets.remove(0))
}

/// Checks that the message is one short line that quotes nothing raw.
fn refused(text: &str, message: &str) {
    assert!(message.len() < 500, "{text:?}: {message}");
    assert!(!message.chars().any(char::is_control), "{text:?}: {message}");
}

#[test]
fn targets() {
    for (text, printed) in [
        ("licserver:9999", "MLM_LICENSE_FILE=licserver:9999"),
        ("ANSYSLMD_LICENSE_FILE=lic:1055+1793", "ANSYSLMD_LICENSE_FILE=lic:1055+1793"),
        ("A=a:1+2,b.c:1+2,10.0.0.1:65535", "A=a:1+2,b.c:1+2,10.0.0.1:65535"),
        ("[::1]:080", "MLM_LICENSE_FILE=[::1]:80"),
        ("_x9=[fe80::1%eth0.1]:1+3,h_-1:2", "_x9=[fe80::1%eth0.1]:1+3,h_-1:2"),
        ("[lic]:1", "MLM_LICENSE_FILE=lic:1"),
        ("https://token.gurobi.com", "https_proxy=https://token.gurobi.com:443"),
        ("A=https://a/,https://b:1", "A=https://a:443,b:1"),
    ] {
        let target = parse_target(text).unwrap();
        assert_eq!(target.to_string(), printed);
        assert_eq!(parse_target(printed).unwrap(), target);
    }
}

#[test]
fn a_host_and_its_port() {
    for (text, host, port) in [
        ("h", "h", None),
        ("h:1", "h", Some("1")),
        ("h:", "h", Some("")),
        (":1", "", Some("1")),
        ("[h]", "h", None),
        ("[h]:1", "h", Some("1")),
        ("[::1]", "::1", None),
        ("[::1]:1", "::1", Some("1")),
        ("::1", "::1", None),
        ("[::1", "[::1", None),
        ("[::1]1", "[::1]1", None),
    ] {
        assert_eq!(split_port(text), (host, port));
    }
    assert_eq!(without_brackets("[::1]"), "::1");
    assert_eq!(without_brackets("h:1"), "h:1");
}

#[test]
fn kept_ports_stand_apart() {
    let target = parse_target("A=[::1]:27000+27001+27002").unwrap();
    let server = &target.servers()[0];
    assert_eq!((server.host.as_str(), server.port), ("::1", 27000));
    assert_eq!(server.kept, [27001, 27002]);
    assert_eq!(server.to_string(), "[::1]:27000");
}

#[test]
fn bad_targets() {
    for (text, why) in [
        ("", "expected [NAME="),
        ("lic", "lic has no port: lic:27000, for example"),
        ("27000@lic+1", "write lic:27000+1"),
        ("host:", "port \"\": expected"),
        (":1", "no host"),
        ("h:0", "1 to 65535"),
        ("h:65536", "1 to 65535"),
        ("h:+1", "1 to 65535"),
        ("h:1+", "1 to 65535"),
        ("h:1++2", "1 to 65535"),
        ("h:-1", "1 to 65535"),
        ("h: 1", "1 to 65535"),
        ("h:1\n", r"1\n"),
        ("h:\u{661}", "1 to 65535"),
        ("h:1+1", "twice"),
        ("h:1,", "expected [NAME="),
        (",h:1", "expected [NAME="),
        ("::1:5", "brackets"),
        ("a:b:5", "brackets"),
        ("a:1,2", "write a:1+2"),
        ("A=a:1:2", "write A=a:1+2"),
        ("1:a:2", "write a:2, or -L 1:a:2"),
        ("1:2", "licserver:1+2, for example"),
        ("@a", "27000 to 27009"),
        ("a:1+VENDOR", "stands for a number"),
        ("[::1:5", "expected [address]:port"),
        ("[::1]", "expected [address]:port"),
        ("[::1]5", "expected [address]:port"),
        ("::1]:5", "brackets"),
        ("[[::1]]:5", "expected [address]:port"),
        ("[]:5", "no host"),
        ("[::g]:5", "expected letters"),
        ("[::1%]:5", "expected letters"),
        ("[::1%e;x]:5", "expected letters"),
        ("1.2.3.4%eth0:5", "expected letters"),
        ("-h:1", "expected letters"),
        (".h:1", "expected letters"),
        ("a b:1", "expected letters"),
        ("a;b:1", "expected letters"),
        ("'a':1", "expected letters"),
        ("\"a\":1", "expected letters"),
        ("$(id):1", "expected letters"),
        ("`id`:1", "expected letters"),
        ("a\nb:1", r"a\nb"),
        ("h\u{e9}:1", "expected letters"),
        ("\u{1b}[2J:1", r"\u{1b}"),
        ("=h:1", "variable \"\""),
        ("9A=h:1", "variable \"9A\""),
        ("A-B=h:1", "variable \"A-B\""),
        ("A;id=h:1", "variable"),
        ("A=B=h:1", "expected letters"),
        ("A=", "expected [NAME="),
        ("PATH=h:1", "belongs to"),
        ("path=h:1", "belongs to"),
        ("IFS=h:1", "belongs to"),
        ("LD_PRELOAD=h:1", "belongs to"),
        ("BASH_ENV=h:1", "belongs to"),
        ("ENV=h:1", "belongs to"),
        ("PS1=h:1", "belongs to"),
        ("UID=h:1", "belongs to"),
        ("_=h:1", "belongs to"),
        ("fish_pid=h:1", "belongs to"),
        ("http://h", "only https://"),
        ("A=ftp://h", "only https://"),
        ("PATH=https://h", "belongs to"),
        ("A;id=https://h", "variable"),
        (&format!("{}:1", "a".repeat(254)), "expected letters"),
    ] {
        let error = parse_target(text).expect_err(text);
        assert_eq!(error.code, Code::Usage);
        assert!(error.to_string().contains(why), "{text:?}: {error}");
        refused(text, &error.to_string());
    }
}

#[test]
fn a_variable_names_one_proxy() {
    let check = |words: &[&str]| {
        let targets: Vec<Target> = words.iter().map(|word| parse_target(word).unwrap()).collect();
        check_together(&targets)
    };
    assert!(check(&["https://a", "A=https://b", "B=c:1", "B=d:1"]).is_ok());
    for twice in [["https://a", "https://b"], ["A=https://a", "A=b:1"]] {
        let error = check(&twice).unwrap_err();
        assert!(error.to_string().contains("=https://first,second"), "{error}");
    }
}

#[test]
fn forwards() {
    for (text, printed) in [
        ("1055:h:1056", "1055:h:1056"),
        (" 1055:h:1056:", "1055:h:1056"),
        (":1055:h:1056", "*:1055:h:1056"),
        ("*:1055:h:1056", "*:1055:h:1056"),
        ("localhost:7005:localhost:8889", "localhost:7005:localhost:8889"),
        ("[::1]:1:[fe80::1%eth0]:2", "[::1]:1:[fe80::1%eth0]:2"),
        (r"1:fe80\:\:1:2", "1:[fe80::1]:2"),
        ("[b]:1:[h]:2", "b:1:h:2"),
        ("5432:/run/pg", "5432:/run/pg"),
        ("b:5432:[/run/pg:1]", "b:5432:/run/pg:1"),
        ("/tmp/s:h:5", "/tmp/s:h:5"),
        ("./s:[::1]:5", "./s:[::1]:5"),
        (r"/tmp/a\:b:/tmp/t", "/tmp/a:b:/tmp/t"),
        ("/tmp/s:h/5", "/tmp/s:h/5"),
    ] {
        assert_eq!(parse_forward(text).expect(text).to_string(), printed);
    }
}

#[test]
fn bad_forwards() {
    for (text, why) in [
        ("", "expected [bind_address:]port"),
        (":", "expected [bind_address:]port"),
        ("1055", "expected [bind_address:]port"),
        ("1055:h", "expected [bind_address:]port"),
        ("/a/b:5", "expected [bind_address:]port"),
        ("1055/h/5", "expected [bind_address:]port"),
        ("1:2:3:4:5", "expected [bind_address:]port"),
        ("0:h:5", "1 to 65535"),
        ("1:h:0", "1 to 65535"),
        ("65536:h:5", "1 to 65535"),
        ("1:h:no-such", "1 to 65535"),
        ("a:b:c:d", "1 to 65535"),
        ("1::80", "no host"),
        ("1:[h:5", "[ without ]"),
        ("1:[h]x:5", "colon after ]"),
        ("1:h:5\\", "nothing after"),
        ("1:a b:5", "expected letters"),
        ("1:-h:5", "expected letters"),
        ("a;b:1:h:5", "expected letters"),
        ("1:$(id):5", "expected letters"),
        ("/tmp/a\nb:h:5", "control character"),
        ("/tmp/%u:h:5", "not expanded"),
        ("/tmp/${X}:h:5", "not expanded"),
        (&format!("/{}:h:5", "s".repeat(107)), "107 bytes"),
    ] {
        let error = parse_forward(text).expect_err(text);
        assert_eq!(error.code, Code::Usage);
        assert!(error.to_string().contains(why), "{text:?}: {error}");
        refused(text, &error.to_string());
    }
}

/// ssh is the oracle: whatever is accepted here means the same to `ssh -G`.
#[test]
fn forwards_mean_what_ssh_takes_them_for() {
    const PIECES: &[&str] = &[
        "1055",
        "80",
        "h",
        "localhost",
        "[::1]",
        "/tmp/s",
        "*",
        "",
        "[/t:u]",
        "\\:",
        " ",
        "0",
        "fe80::1",
        "[h",
        "]",
    ];
    let piece = || PIECES[rand::random_range(0..PIECES.len())];
    let mut accepted = 0;
    for _ in 0..50_000 {
        let mut text = piece().to_owned();
        for _ in 0..rand::random_range(1..5) {
            text += if rand::random_ratio(9, 10) { ":" } else { piece() };
            text += piece();
        }
        let Ok(forward) = parse_forward(&text) else {
            continue;
        };
        let listen = match &forward.listen {
            ForwardSide::Tcp { bind: None, port } => port.to_string(),
            ForwardSide::Tcp { bind: Some(bind), port } => format!("[{bind}]:{port}"),
            ForwardSide::Unix(path) => path.display().to_string(),
        };
        let to = match &forward.to {
            Destination::Tcp { host, port } => format!("[{host}]:{port}"),
            Destination::Unix(path) => path.clone(),
            Destination::Web(_) => unreachable!("-L names one"),
        };
        let ssh = Command::new("ssh")
            .args(["-F", "none", "-G", "-L", &text, "host"])
            .stdin(Stdio::null())
            .output();
        let Ok(output) = ssh else {
            return eprintln!("skipped: no ssh to compare with");
        };
        let said = String::from_utf8_lossy(&output.stdout).replace(" []:", " [*]:");
        let line = format!("localforward {listen} {to}");
        assert!(said.lines().any(|l| l == line), "{text:?}: want {line}, ssh: {said}");
        accepted += 1;
        if accepted == 300 {
            return;
        }
    }
    panic!("only {accepted} of the generated forwards were accepted");
}
