//! The numbers of libssh2's errors that mean something here, by the names that
//! its libssh2.h gives them (there LIBSSH2_ERROR_ stands before each).

use ssh2::ErrorCode::{self, Session};

/// No key exchange, and it is not told why.
pub const KEX_FAILURE: ErrorCode = Session(-5);
pub const SOCKET_SEND: ErrorCode = Session(-7);
/// A key exchange that began and failed.
pub const KEY_EXCHANGE_FAILURE: ErrorCode = Session(-8);
pub const TIMEOUT: ErrorCode = Session(-9);
pub const SOCKET_DISCONNECT: ErrorCode = Session(-13);
/// The gateway refused a login; or the connection was lost in it.
pub const AUTHENTICATION_FAILED: ErrorCode = Session(-18);
/// The gateway refused a signature; or none could be made.
pub const PUBLICKEY_UNVERIFIED: ErrorCode = Session(-19);
/// The gateway could not open a channel.
pub const CHANNEL_FAILURE: ErrorCode = Session(-21);
/// The gateway did not grant a request on a channel.
pub const CHANNEL_REQUEST_DENIED: ErrorCode = Session(-22);
/// Not now, such as waiting for a channel's end before its end of file.
pub const INVAL: ErrorCode = Session(-34);
/// Not done yet: wait for the socket and call again.
pub const EAGAIN: ErrorCode = Session(-37);
pub const SOCKET_RECV: ErrorCode = Session(-43);
