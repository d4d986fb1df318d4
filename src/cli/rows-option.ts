/** How keys and values are stored, for every command that makes a session. */
export const rowsOption = {
  type: 'string',
  choices: ['bf16', 'int8'],
  default: 'bf16',
  describe: 'How keys and values are stored; int8 takes half the memory',
} as const;
