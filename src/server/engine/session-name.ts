/** What a session may be called: a name of one folder, on every file system. */
export const sessionNamePattern = '^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$';
