// Requests to the API of this worker.

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  // Nobody answered: no fault of the request.
  get gone() {
    return this.status === 0;
  }
}

// A request that takes longer is given up; the server's own limit is 30 s.
const PATIENCE = 31_000;

let signedOut = () => {};

export function onSignedOut(callback) {
  signedOut = callback;
}

export async function api(method, path, body, patience = PATIENCE) {
  const headers = { 'x-im-dispatcher': 'dashboard', accept: 'application/json' };
  if (body !== undefined) headers['content-type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: 'same-origin',
      cache: 'no-store',
      signal: AbortSignal.timeout(patience),
    });
  } catch {
    throw new ApiError(0, 'gone', 'the worker behind this page does not answer');
  }
  const text = await response.text().catch(() => '');
  let answer = null;
  try {
    answer = text === '' ? null : JSON.parse(text);
  } catch {
    throw new ApiError(response.status, 'bad-answer', `an answer that is not JSON (${response.status})`);
  }
  if (!response.ok) {
    const error = answer?.error ?? {};
    if (response.status === 401 && error.code === 'unauthorized') signedOut();
    throw new ApiError(response.status, error.code ?? 'error', error.message ?? `status ${response.status}`);
  }
  return answer;
}

export const get = (path, patience) => api('GET', path, undefined, patience);
export const post = (path, body = {}) => api('POST', path, body);
export const part = encodeURIComponent;
