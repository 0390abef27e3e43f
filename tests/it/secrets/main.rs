//! Secrets: kept from whatever is written, answered or shown; master keys that are exchanged under a running installation; and users of
//! the database who may no more than they must.
mod exchange;
mod leaks;
mod planted;
mod users;
