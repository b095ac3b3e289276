"""Spack recipe of licfwd: keep it in packages/licfwd of a repository, the archives beside it."""

import os
import platform

from spack.package import *

# The gateway of this site, or a list of them: jobs then call licfwd LICENSE_SERVER:PORT.
GATEWAY = ""


# Each processor has an archive of its own.
SUMS = {
    "@PROCESSOR@": "@SHA256@",
}
PROCESSOR = platform.machine()


class Licfwd(Package):
    """Forwards license servers into a batch job through an SSH gateway."""

    homepage = "https://example.org/licfwd"
    url = f"file://{os.path.dirname(__file__)}/licfwd-@VERSION@-{PROCESSOR}-linux.tar.gz"

    license("MIT OR Apache-2.0")

    if PROCESSOR in SUMS:
        version("@VERSION@", sha256=SUMS[PROCESSOR])

    requires("platform=linux", msg="the archives hold binaries for Linux")
    requires(f"target={PROCESSOR}:", msg="the archive of this machine's processor holds a binary for that alone")

    def install(self, spec, prefix):
        install_tree("bin", prefix.bin)
        install_tree("share", prefix.share)

    def setup_run_environment(self, env):
        if GATEWAY:
            env.set("LICFWD_GATEWAY", GATEWAY)

    @run_after("install")
    @on_package_attributes(run_tests=True)
    def check_it_runs(self):
        Executable(self.prefix.bin.licfwd)("--version")
