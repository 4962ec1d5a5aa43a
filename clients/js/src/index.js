// The public names, nothing else.

export { Client } from './client.js';
export { Decoder } from './decoder.js';
export { UnspoolError } from './errors.js';
export { Fold } from './fold.js';
export { TERMINAL } from './follower.js';
export { newId } from './id.js';
