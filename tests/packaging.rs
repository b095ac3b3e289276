//! What administrators install: archive, installation, recipes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::rig::job::licfwd;
use crate::rig::{Gateway, Job, LicenseServer, Outcome, Service, say_skipped, skip};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// A directory with a `licfwd` that leads to the real one: compressing one with
/// debug information takes long.
fn desk() -> Job {
    let job = Job::new();
    let file = job.directory().write("licfwd", "#!/bin/sh\nexec \"$LICFWD\" \"$@\"\n");
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("chmod");
    job
}

/// A job's shell in its own directory, with `$SCRIPTS` and `$LICFWD` set.
#[track_caller]
fn sh(job: &Job, text: &str) -> Outcome {
    let mut command = job.command("bash");
    // Cargo looks there for sources of the crates.
    for name in ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    if let (None, Some(home)) = (std::env::var_os("CARGO_HOME"), std::env::home_dir()) {
        command.env("CARGO_HOME", home.join(".cargo"));
        command.env("RUSTUP_HOME", home.join(".rustup"));
    }
    command.env("SCRIPTS", scripts()).env("LICFWD", licfwd());
    let running = job.spawn(command.args(["-euc", text]));
    running.wait(Duration::from_secs(120))
}

#[track_caller]
fn succeeds(job: &Job, text: &str) -> Outcome {
    let outcome = sh(job, text);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome
}

fn has(job: &Job, program: &str) -> bool {
    sh(job, &format!("command -v {program}")).code == 0
}

/// How the name of an archive for this machine ends.
fn ours() -> String {
    format!("-{}-linux.tar.gz", std::env::consts::ARCH)
}

/// Every file below a directory, relative to it.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut new = vec![directory.to_owned()];
    while let Some(place) = new.pop() {
        for entry in fs::read_dir(place).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                new.push(path);
            } else {
                let path = path.strip_prefix(directory).expect("below it");
                found.insert(path.display().to_string());
            }
        }
    }
    found
}

/// Goal: `install` puts what was staged where it belongs, also over itself, and
/// `--uninstall` removes exactly that.
#[test]
fn install_and_uninstall() {
    let job = desk();
    // The layout of an archive, without its sums.
    succeeds(&job, "\"$SCRIPTS\"/packaging/stage licfwd archive");
    succeeds(&job, "install -m 755 \"$SCRIPTS\"/install archive/install");
    succeeds(&job, "cd archive; find bin share -type f | xargs sha256sum >SHA256SUMS");
    succeeds(&job, "mkdir -p .local/bin; echo mine >.local/bin/mine");

    succeeds(&job, "archive/install");
    let prefix = job.directory().file(".local");
    for file in [
        "bin/licfwd",
        "share/man/man1/licfwd.1",
        "share/bash-completion/completions/licfwd",
        "share/zsh/site-functions/_licfwd",
        "share/fish/vendor_completions.d/licfwd.fish",
        "share/doc/licfwd/examples/slurm.sh",
    ] {
        assert!(prefix.join(file).is_file(), "{file}");
    }
    let mode = fs::metadata(prefix.join("bin/licfwd")).expect("licfwd");
    assert_eq!(mode.permissions().mode() & 0o777, 0o755);

    // The next version lacks one file and has another.
    succeeds(
        &job,
        "rm archive/share/doc/licfwd/examples/lsf.sh; echo new >archive/share/doc/licfwd/NEWS; \
         cd archive; find bin share -type f | xargs sha256sum >SHA256SUMS; ./install ~/.local",
    );
    assert!(!prefix.join("share/doc/licfwd/examples/lsf.sh").exists());
    assert!(prefix.join("share/doc/licfwd/NEWS").exists());

    succeeds(&job, "archive/install --uninstall");
    assert_eq!(files(&prefix), BTreeSet::from(["bin/mine".to_owned()]));
    assert!(!prefix.join("share").exists(), "an empty directory is left");
    assert_eq!(sh(&job, "archive/install --uninstall").code, 1);

    // A prefix that was not there before goes too.
    succeeds(&job, "archive/install new; archive/install --uninstall new");
    assert!(!job.directory().file("new").exists());

    // A damaged archive is not installed.
    succeeds(&job, "echo >>archive/share/man/man1/licfwd.1");
    assert_ne!(sh(&job, "archive/install other").code, 0);
    assert!(!job.directory().file("other").exists());
}

/// Goal: packing twice gives the same bytes, and all that the issue of a
/// release needs lies beside the archive.
#[test]
fn packed_twice_alike() {
    let job = desk();
    if !has(&job, "python3") || sh(&job, "cargo --version").code != 0 {
        skip!("python3 or cargo cannot be run here");
    }
    let outcome = succeeds(
        &job,
        "\"$SCRIPTS\"/packaging/pack licfwd one; sleep 1; \"$SCRIPTS\"/packaging/pack licfwd two; diff -r one two >&2",
    );
    let archive = outcome.stdout.lines().next().expect("the archive");
    assert!(archive.ends_with(&ours()), "{outcome:?}");
    succeeds(&job, "cd one; sha256sum -c *.sha256; tar -xzf *.tar.gz; licfwd-*/install ~/.local");
    let out = job.directory().file("one");
    for file in files(&out) {
        let is_recipe = [".lua", ".eb", ".py"].iter().any(|end| file.ends_with(end));
        let text = if is_recipe { fs::read_to_string(out.join(&file)) } else { Ok(String::new()) };
        assert!(!text.expect("a recipe").contains("@SHA256@"), "{file}");
    }
    let notices = job.directory().read(".local/share/doc/licfwd/THIRD-PARTY");
    for part in ["openssl-src", "libssh2-sys libssh2/COPYING", "libz-sys src/zlib/LICENSE"] {
        assert!(notices.contains(part), "{part}");
    }
}

/// Goal: an archive for another processor is told from ours by its binary alone, the
/// recipes know both, and it is not installed here.
#[test]
fn another_processor() {
    let job = desk();
    if !has(&job, "python3") || sh(&job, "cargo --version").code != 0 {
        skip!("python3 or cargo cannot be run here");
    }
    let (other, number) = match std::env::consts::ARCH {
        "x86_64" => ("aarch64", r"\267"),
        _ => ("x86_64", r"\076"),
    };
    // As much of an ELF file as says for which processor it is.
    succeeds(&job, &format!(r"printf '\177ELF\002\001%012d{number}\000' 0 >other"));
    succeeds(
        &job,
        "\"$SCRIPTS\"/packaging/pack licfwd out; \"$SCRIPTS\"/packaging/pack other out licfwd",
    );
    let out = job.directory().file("out");
    let recipes =
        files(&out).into_iter().filter(|file| [".eb", ".py"].iter().any(|end| file.ends_with(end)));
    for recipe in recipes {
        let text = fs::read_to_string(out.join(&recipe)).expect("a recipe");
        for processor in [std::env::consts::ARCH, other] {
            let sum =
                succeeds(&job, &format!("cut -d' ' -f1 out/*-{processor}-linux.tar.gz.sha256"));
            let line = |line: &&str| line.contains(processor) && line.contains(sum.line());
            assert_eq!(text.lines().filter(line).count(), 1, "{recipe}: {text}");
        }
        assert!(
            !["@SHA256@", "@PROCESSOR@", "@VERSION@"].iter().any(|name| text.contains(name)),
            "{recipe}"
        );
    }
    succeeds(
        &job,
        &format!("mkdir it; tar -xzf out/*-{other}-linux.tar.gz -C it --strip-components=1"),
    );
    let refused = sh(&job, "it/install ~/.local");
    assert_eq!(refused.code, 1, "{refused:?}");
    for word in [format!("for {other}"), format!("take licfwd-*{}", ours())] {
        assert!(refused.stderr.contains(&word), "{word}: {refused:?}");
    }
    assert!(!job.directory().file(".local").exists());
}

/// Goal: each recipe is sound as far as its language can tell.
#[test]
fn recipes_are_sound() {
    let job = desk();
    let mut checked = 0;
    for (program, check) in [
        ("lua", "lua -e 'assert(loadfile(os.getenv(\"SCRIPTS\") .. \"/packaging/licfwd.lua\"))'"),
        (
            "python3",
            "python3 -c 'import ast, sys; [ast.parse(open(f).read()) for f in sys.argv[1:]]' \
                     \"$SCRIPTS\"/packaging/{package.py,licfwd.eb}",
        ),
        ("bash", "for job in \"$SCRIPTS\"/packaging/jobs/*; do bash -n \"$job\"; done"),
    ] {
        if has(&job, program) {
            succeeds(&job, check);
            checked += 1;
        }
    }
    assert!(checked > 0);
}

/// What Lmod makes of a module file, as lines for sh; only the variables matter here.
const LMOD: &str = r##"
function pathJoin(...) return table.concat({...}, "/") end
function setenv(name, value) print("export " .. name .. "='" .. value .. "'") end
function prepend_path(name, value) print("export " .. name .. "='" .. value .. "':\"$" .. name .. '"') end
function append_path(name, value) assert(name and value) end
function whatis(text) assert(text:match("^%u%l+: %S")) end
function help(text) print("# " .. text:gsub("\n", "\n# ")) end
"##;

/// EasyBuild's constants, and what it makes of a recipe.
const EASYBUILD: &str = r#"
import sys
recipe = {"SYSTEM": {"name": "system", "version": "system"}}
exec(open(sys.argv[1]).read(), recipe)
for name, value in recipe["modextravars"].items():
    print(f"export {name}='{value}'")
"#;

/// As much of Spack as a recipe calls, and what it makes of one.
const SPACK: &str = r#"
import sys, types
class Package: pass
def ignore(*_, **__): return lambda it: it
class Env:
    def set(self, name, value): print(f"export {name}='{value}'")
package = types.ModuleType("spack.package")
package.__all__ = ["Package", "version", "license", "requires", "run_after", "on_package_attributes"]
package.Package = Package
for name in package.__all__[1:]: setattr(package, name, ignore)
sys.modules["spack"] = types.ModuleType("spack")
sys.modules["spack.package"] = package
recipe = {"__file__": sys.argv[1], "__name__": "recipe"}
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), recipe)
recipe["Licfwd"]().setup_run_environment(Env())
"#;

/// Goal: the site's gateway, written into the one line of each recipe, reaches licfwd; left
/// empty, as it is delivered, it sets nothing.
#[test]
fn recipes_name_the_gateway() {
    let gateway = Gateway::start();
    let server = LicenseServer::start(Service::CheckOut);
    for (program, stub, load, recipe, line) in [
        ("lua", LMOD, "cat stub recipe | lua -", "licfwd.lua", "local gateway = \"\""),
        ("python3", EASYBUILD, "python3 stub recipe", "licfwd.eb", "local_gateway = ''"),
        ("python3", SPACK, "python3 stub recipe", "package.py", "GATEWAY = \"\""),
    ] {
        let job = Job::new();
        if !has(&job, program) {
            say_skipped(&format!("{program} is not installed"));
            continue;
        }
        let text = fs::read_to_string(scripts().join("packaging").join(recipe)).expect("a recipe");
        assert_eq!(text.matches(&format!("\n{line}\n")).count(), 1, "{recipe}");
        job.directory().write("stub", stub);
        for (name, code) in [("gw", 0), ("", 64)] {
            let quote = line.chars().last().expect("a quote");
            let set = line.replace(&format!("{quote}{quote}"), &format!("{quote}{name}{quote}"));
            job.directory().write("recipe", &text.replacen(line, &set, 1));
            let text = format!(
                "{load} >module || exit 99; . ./module
                 licfwd -F \"$CONFIG\" MLM_LICENSE_FILE=127.0.0.1:$PORT"
            );
            let outcome = job.run(&mut job.script("sh", &text, &gateway, server.port()));
            assert_eq!(outcome.code, code, "{recipe}, {name:?}: {outcome:?}");
        }
    }
}

/// Goal: the Debian package holds what it should, where Debian wants it.
#[test]
fn debian_package() {
    let job = desk();
    if !has(&job, "dpkg-deb") {
        skip!("dpkg-deb is not installed");
    }
    succeeds(&job, "\"$SCRIPTS\"/packaging/stage licfwd tree");
    let build = "\"$SCRIPTS\"/packaging/build-deb tree 1.2.3 . aarch64; dpkg-deb --info *.deb; dpkg-deb --contents *.deb";
    let told = succeeds(&job, build).stdout;
    for word in [
        "Version: 1.2.3",
        "Architecture: arm64",
        "Recommends: openssh-client",
        "-rwxr-xr-x root/root",
        "./usr/bin/licfwd",
        "./usr/share/man/man1/licfwd.1.gz",
        "./usr/share/zsh/vendor-completions/_licfwd",
        "./usr/share/doc/licfwd/copyright",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    // Whoever unpacks it by hand gives the package's root to that directory.
    assert!(!told.contains("drwx------"), "{told}");
}
