/** How keys and values are stored, for every command that makes a session. */
export const rowsOption = {
  type: 'string',
  choices: ['bf16', 'int8'],
  describe: 'How keys and values are stored; int8 takes half the memory [default: bf16, or as the session was made]',
} as const;
