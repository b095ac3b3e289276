//! Tables of what ssh prints, and what it means.

use super::*;
use crate::config::without_ssh::without_ssh;

fn here() -> Here {
    Here {
        home: Some("/home/ann".into()),
        user: "ann".into(),
        uid: 1000,
        host: "n1.cluster".into(),
        cwd: "/here".into(),
        hash: "f00d".into(),
        env: |name| match name {
            "SSH_AUTH_SOCK" => Some("/tmp/agent".into()),
            "MY_AGENT" => Some("/tmp/mine".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        },
    }
}

/// A gateway as `ssh -G` would describe it with these lines.
pub(crate) fn gateway(text: &str) -> Gateway {
    let text = format!("{text}\nhostname gw.example\nuser bob\nport 2222\n");
    parse(&text, "bob@gw", &here()).unwrap()
}

#[test]
fn tokens_are_those_of_ssh_config() {
    for (value, path) in [
        ("~/.ssh/id_rsa", "/home/ann/.ssh/id_rsa"),
        ("~", "/home/ann"),
        ("~root/.ssh/key", "/root/.ssh/key"),
        ("~root", "/root"),
        ("key", "/here/key"),
        ("/k/%d", "/k//home/ann"),
        ("/k/%h_%u_%r_%n_%%", "/k/gw.example_ann_bob_gw_%"),
        ("/k/%i-%l-%L-%k-%p", "/k/1000-n1.cluster-n1-gw-2222"),
        ("/k/${MY_AGENT}x", "/k//tmp/minex"),
        ("/k/%C${EMPTY}$", "/k/f00d$"),
        ("/k/%%h", "/k/%h"),
        ("/k/\u{e9}%h", "/k/\u{e9}gw.example"),
    ] {
        let found = gateway(&format!("identityfile {value}"));
        let expected: PathBuf = std::path::absolute(path).unwrap();
        assert_eq!(found.login.identity_files, [expected], "{value}");
    }
    // What ssh has expanded, and what it never expands.
    let found = gateway("userknownhostsfile /k/%h ~/k\nglobalknownhostsfile ~/%h").host_key;
    assert_eq!(found.user_files, ["/k/%h", "/home/ann/k"].map(PathBuf::from));
    assert_eq!(found.global_files, [PathBuf::from("/home/ann/%h")]);
}

#[test]
fn what_ssh_cannot_expand_is_an_error() {
    for (line, why) in [
        ("identityfile /k/100%", "% at its end"),
        ("identityfile /k/%Z", "no token %Z"),
        ("identityfile /k/${no}", "${no} is not set"),
        ("identityfile /k/${no", "${ without }"),
        ("certificatefile ~no such user/k", "no such user: no such user"),
        ("proxycommand x %d", "no token %d"),
    ] {
        let text = format!("{line}\nhostname gw.example\nuser bob\n");
        let error = parse(&text, "gw", &here()).unwrap_err();
        assert_eq!(error.code, Code::Config);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn the_name_is_as_typed() {
    for (name, jump, expected) in [
        ("bob@gw", "u@j:1,k", "gw k"),
        ("ssh://bob@gw:22/", "ssh://u@j:1", "gw j"),
        ("ssh://[::1]:22", "a,[::2]:5", "::1 ::2"),
    ] {
        let text = format!("proxyjump {jump}\nidentityfile /%n %j\nhostname h\nuser bob");
        let found = parse(&text, name, &here()).unwrap();
        assert_eq!(found.login.identity_files, [PathBuf::from(format!("/{expected}"))]);
    }
}

#[test]
fn agents_are_found_as_ssh_finds_them() {
    for (line, socket) in [
        ("", Some("/tmp/agent")),
        ("identityagent SSH_AUTH_SOCK", Some("/tmp/agent")),
        ("identityagent none", None),
        ("identityagent $MY_AGENT", Some("/tmp/mine")),
        ("identityagent $UNSET", None),
        ("identityagent ~/a_%r", Some("/home/ann/a_bob")),
    ] {
        assert_eq!(gateway(line).login.identity_agent, socket.map(PathBuf::from));
    }
}

#[test]
fn values_are_read_once_and_limited() {
    for (lines, interval, count) in [
        ("serveraliveinterval 0\nserveralivecountmax 9", 20, 3),
        ("serveraliveinterval 300\nserveralivecountmax 0", 20, 1),
        ("serveraliveinterval 5", 5, 3),
    ] {
        let silence = gateway(lines).silence;
        assert_eq!(silence.idle.as_secs(), interval);
        assert_eq!(silence.ask * 2, silence.idle * count);
    }
    assert_eq!(gateway("connecttimeout none").connect_timeout, None);
    let g = gateway("port 7\nhostname a\nconnecttimeout 3\naddressfamily inet6");
    assert_eq!((g.port, g.host.as_str()), (7, "a"));
    assert_eq!(g.family, Family::V6);
    assert_eq!(g.connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(gateway("ciphers a,b").algorithms.ciphers, ["a", "b"]);
    for (word, strict) in [
        ("ask", Strict::Yes),
        ("true", Strict::Yes),
        ("false", Strict::AcceptNew),
        ("accept-new", Strict::AcceptNew),
    ] {
        assert_eq!(gateway(&format!("stricthostkeychecking {word}")).host_key.strict, strict);
    }
    let login = |text| gateway(text).login;
    assert!(login("").keyboard_interactive && login("").pubkey);
    assert!(!login("challengeresponseauthentication no").keyboard_interactive);
    for text in ["user a", "hostname b", "hostname b\nuser a\nport 0"] {
        let code = parse(text, "b", &here()).unwrap_err().code;
        assert_eq!(code, Code::Config);
    }
}

#[test]
fn what_carries_the_connection() {
    let command = |line: &str| Some(Proxy::Command(line.to_owned()));
    let jump = Proxy::Jump { hosts: "u@j:1,k".to_owned(), config_file: None };
    for (lines, proxy) in [
        ("", None),
        ("proxycommand none", None),
        ("proxycommand none\nproxyjump u@j:1,k", Some(jump)),
        ("proxycommand nc %h %p # %% %r@%n", command("nc gw.example 2222 # % bob@gw")),
        ("hostkeyalias a\nproxycommand x %k", command("x a")),
        // What is for the shell.
        ("proxycommand x ${MY_AGENT} $h", command("x ${MY_AGENT} $h")),
        ("proxycommand x %k", command("x gw")),
    ] {
        assert_eq!(gateway(lines).proxy, proxy, "{lines}");
    }
}

#[test]
fn file_lists_may_hold_blanks() {
    for (value, files) in [
        ("none", &[] as &[&str]),
        ("/a /b", &["/a", "/b"]),
        ("/a b/c ~/d", &["/a b/c", "/home/ann/d"]),
        ("k1 k2", &["/here/k1", "/here/k2"]),
    ] {
        let found = gateway(&format!("userknownhostsfile {value}")).host_key.user_files;
        let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        assert_eq!(found, files, "{value}");
    }
}

#[test]
fn the_command_line_stands_in_for_ssh() {
    let options = ["-p", "22", "-o", "User=eve", "-i", "k", "-o", "Ciphers x,y", "-4"];
    let options = options.map(Into::into);
    let text = without_ssh("bob@[::1]", &options, &here()).unwrap();
    let g = parse(&text, "bob@[::1]", &here()).unwrap();
    assert_eq!((g.host.as_str(), g.port, g.user.as_str()), ("::1", 22, "eve"));
    assert_eq!(g.login.identity_files, [PathBuf::from("/here/k")]);
    assert_eq!((g.algorithms.ciphers.len(), g.family), (2, Family::V4));
    let text = without_ssh("gw", &[], &here()).unwrap();
    let g = parse(&text, "gw", &here()).unwrap();
    assert_eq!((g.user.as_str(), g.login.identity_files.len()), ("ann", 3));
    assert_eq!(g.host_key.user_files.len(), 2);
    for needs_ssh in [["-F", "x"], ["-J", "j"], ["-o", "ProxyJump=j"], ["-o", "MACs=+c"]] {
        let error = without_ssh("gw", &needs_ssh.map(Into::into), &here()).unwrap_err();
        assert_eq!(error.code, Code::Config);
    }
}
