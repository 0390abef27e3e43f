//! Secrets: master keys that are exchanged under a running installation, and users of the database who may no more than they must.
mod exchange;
mod users;
