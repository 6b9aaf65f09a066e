"""Options of gateways and servers on the connections between them: the secret, certificates.

Connections are opened in :mod:`internvl35.serve.link`.
"""

from __future__ import annotations

import importlib.util
import os
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from internvl35.commands.options import METAVAR
from internvl35.errors import ConfigError

if TYPE_CHECKING:
    from internvl35.serve.handshake import Identity
    from internvl35.serve.messages import Profile


@dataclass(frozen=True)
class LinkOptions:
    """How gateways and servers know each other."""

    secret_file: str | None = field(default=None, metadata={METAVAR: "FILE"})
    """File with a secret of at least 32 characters that others cannot read, the same for the
    gateway and all servers; needed wherever a server listens to others than this machine."""
    tls_certificate: str | None = field(default=None, metadata={METAVAR: "FILE"})
    """This process's certificate for links, in PEM; both sides show theirs."""
    tls_key: str | None = field(default=None, metadata={METAVAR: "FILE"})
    """The certificate's key, in PEM."""
    tls_authority: str | None = field(default=None, metadata={METAVAR: "FILE"})
    """Certificate of the authority that signed those of all processes, in PEM."""
    shared_mib: int = 0
    """MiB of memory, for each direction of a link, that processes of one machine share so that
    pictures need not go through a socket; the same on both sides, 0 for none."""
    ucx: bool = False
    """Send large tensors over UCX (needs the extra internvl35[ucx] and a secret), which takes
    InfiniBand or RoCE where both machines have it; both sides have to ask for it."""

    def __post_init__(self) -> None:
        """Refuse a part of what TLS needs."""
        given = (self.tls_certificate, self.tls_key, self.tls_authority)
        if any(given) and not all(given):
            raise ConfigError(
                "links need --tls-certificate, --tls-key and --tls-authority together; "
                f"{sum(map(bool, given))} of them are given"
            )
        if not 0 <= self.shared_mib <= 4096:
            raise ConfigError(f"shared_mib is {self.shared_mib}; needed: 0 to 4096")
        if self.ucx and importlib.util.find_spec("ucxx") is None:
            raise ConfigError(
                "ucxx is not installed; run pip install 'internvl35[ucx]', or leave out --ucx"
            )

    def read_secret(self) -> bytes | None:
        """Read the secret.

        Returns:
            It; None if there is none.

        Raises:
            ConfigError: if it cannot be read, or others can read or write it.
        """
        if self.secret_file is None:
            return None
        path = Path(self.secret_file).expanduser()
        try:
            is_private, secret = _is_private(path), path.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"secret_file {self.secret_file!r} cannot be read: {error}") from None
        if not is_private:
            raise ConfigError(
                f"secret_file {self.secret_file!r} is open to others (mode "
                f"{path.stat().st_mode & 0o777:o}); needed: mode 600, 440 if root owns it, or a "
                "folder that others cannot enter; run chmod 600 on it"
            )
        return secret

    def identify(self, profile: Profile, fingerprint: bytes) -> Identity:
        """Put together what this process brings to a link.

        Args:
            profile: what it says about itself.
            fingerprint: of its checkpoint.

        Returns:
            Its identity.

        Raises:
            ConfigError: if the secret cannot be used.
        """
        from internvl35.serve.handshake import Identity

        return Identity(profile, fingerprint, self.read_secret(), self.shared_mib * 2**20, self.ucx)

    def context(self, *, is_server: bool) -> ssl.SSLContext | None:
        """Prepare TLS.

        Args:
            is_server: whether this process listens.

        Returns:
            A context that asks the other side for its certificate; None for plain sockets.

        Raises:
            ConfigError: if the files cannot be used.
        """
        if self.tls_certificate is None:
            return None
        purpose = ssl.Purpose.CLIENT_AUTH if is_server else ssl.Purpose.SERVER_AUTH
        try:
            context = ssl.create_default_context(purpose, cafile=self.tls_authority)
            context.load_cert_chain(self.tls_certificate, self.tls_key)
        except OSError as error:  # which ssl.SSLError is
            raise ConfigError(f"the files of TLS cannot be used: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context


def read_address(text: str) -> tuple[str, int]:
    """Read ``host:port`` or ``[address]:port``.

    Args:
        text: of a user; port 0 is one that is free, for who listens.

    Returns:
        Host and port.

    Raises:
        ConfigError: if it is no address.
    """
    host, colon, port = text.strip().rpartition(":")
    is_bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not (colon and host and not is_bare and port.isdecimal() and int(port) < 65_536):
        raise ConfigError(f"{text!r} is no address; needed: host:port or [address]:port")
    return host.strip("[]"), int(port)


def _is_private(path: Path) -> bool:
    """Whether nobody but root, ourselves and groups that root chose gets at a file.

    A file for which that holds by a folder alone is fine: nobody reads what he cannot reach. Groups
    of root's files are how Kubernetes and systemd give a secret to one process.
    """
    found = path.resolve(strict=True)
    file = found.stat()
    if file.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    if _keeps_out(file, stat.S_IRGRP, stat.S_IROTH):
        return True
    return any(_keeps_out(one.stat(), stat.S_IXGRP, stat.S_IXOTH) for one in found.parents)


def _keeps_out(found: os.stat_result, group: int, others: int) -> bool:
    own = os.geteuid()
    is_ours = own == 0 or found.st_uid in (0, own)
    is_open = found.st_mode & others or (found.st_uid != 0 and found.st_mode & group)
    return is_ours and not is_open
