defmodule Brain.Repairs.Plan do
  @moduledoc """
  Which snapshots are wanted, which are under way, and when a failed one is tried again.

  Pure. A part that is wanted already is not wanted twice. At most `limit` are under way, over all
  shards; each has to show progress within its time or is put back with a growing delay.
  """

  @timeout_ms 5_000
  @first_backoff_ms 250
  @most_backoff_ms 30_000
  # Beyond it a wish is dropped; beats bring it up again.
  @most_waiting 200_000

  @type key :: {account :: binary, shield :: binary, epoch :: non_neg_integer}
  @type direction :: :forward | :back
  @type t :: %__MODULE__{
          limit: pos_integer,
          rand: (pos_integer -> pos_integer),
          waiting: %{key => {not_before :: integer, attempt :: non_neg_integer, direction}},
          order: :queue.queue(key),
          active: %{key => {request :: pos_integer, deadline :: integer, non_neg_integer}},
          since: %{key => integer}
        }

  @enforce_keys [:limit, :rand]
  defstruct [:limit, :rand, waiting: %{}, order: :queue.new(), active: %{}, since: %{}]

  @doc "`rand.(n)` is a number of 1 to n, for jitter and request ids."
  @spec new(pos_integer, (pos_integer -> pos_integer)) :: t
  def new(limit, rand), do: %__MODULE__{limit: limit, rand: rand}

  @spec idle?(t) :: boolean
  def idle?(plan), do: plan.waiting == %{} and plan.active == %{}

  @doc """
  Whether nothing that was wanted before `time` is still to come. What failed three times does not
  count: a Shield that does not answer for one tenant must not keep a Brain cold for all.
  """
  @spec settled?(t, integer) :: boolean
  def settled?(plan, time) do
    Enum.all?(plan.since, fn {key, since} -> since > time or attempts(plan, key) >= 3 end)
  end

  defp attempts(plan, key) do
    case plan do
      %{active: %{^key => {_, _, attempt}}} -> attempt
      %{waiting: %{^key => {_, attempt, _}}} -> attempt
    end
  end

  @spec size(t) :: {non_neg_integer, non_neg_integer}
  def size(plan), do: {map_size(plan.waiting), map_size(plan.active)}

  @doc "A snapshot is wanted, within `jitter` from now."
  @spec want(t, key, direction, integer, non_neg_integer) :: {:new | :known | :full, t}
  def want(plan, key, direction, now, jitter) do
    cond do
      is_map_key(plan.active, key) or is_map_key(plan.waiting, key) ->
        {:known, plan}

      map_size(plan.waiting) >= @most_waiting ->
        {:full, plan}

      true ->
        at = if jitter == 0, do: now, else: now + plan.rand.(jitter)
        plan = %{plan | since: Map.put(plan.since, key, now)}
        {:new, enqueue(plan, key, {at, 0, direction})}
    end
  end

  @doc "Starts what may be started."
  @spec start(t, integer) :: {t, [{key, request :: pos_integer, direction}]}
  def start(plan, now), do: start(plan, now, :queue.len(plan.order), [])

  defp start(plan, _, 0, started), do: {plan, Enum.reverse(started)}

  defp start(%{limit: limit, active: active} = plan, _, _, started)
       when map_size(active) >= limit do
    {plan, Enum.reverse(started)}
  end

  defp start(plan, now, left, started) do
    {{:value, key}, order} = :queue.out(plan.order)

    case plan.waiting do
      %{^key => {at, _, _}} when at > now ->
        start(%{plan | order: :queue.in(key, order)}, now, left - 1, started)

      %{^key => {_, attempt, direction}} ->
        # A small integer on the BEAM, and 2^48 of them in the field's 64 bits.
        request = plan.rand.(281_474_976_710_655)
        active = Map.put(plan.active, key, {request, now + @timeout_ms, attempt})
        plan = %{plan | order: order, waiting: Map.delete(plan.waiting, key), active: active}
        start(plan, now, left - 1, [{key, request, direction} | started])

      _ ->
        start(%{plan | order: order}, now, left - 1, started)
    end
  end

  @doc "A page came."
  @spec progress(t, key, pos_integer, integer) :: t
  def progress(plan, key, request, now) do
    case plan.active do
      %{^key => {^request, _, attempt}} ->
        %{plan | active: Map.put(plan.active, key, {request, now + @timeout_ms, attempt})}

      _ ->
        plan
    end
  end

  @doc "A snapshot is whole."
  @spec done(t, key, pos_integer) :: t
  def done(plan, key, request) do
    case plan.active do
      %{^key => {^request, _, _}} ->
        %{plan | active: Map.delete(plan.active, key), since: Map.delete(plan.since, key)}

      _ ->
        plan
    end
  end

  @doc "A snapshot broke. It is tried again, later each time."
  @spec failed(t, key, pos_integer, integer) :: t
  def failed(plan, key, request, now) do
    case plan.active do
      %{^key => {^request, _, attempt}} ->
        most = min(@most_backoff_ms, @first_backoff_ms * Bitwise.bsl(1, min(attempt, 10)))
        at = now + div(most, 2) + plan.rand.(div(most, 2))
        plan = %{plan | active: Map.delete(plan.active, key)}
        enqueue(plan, key, {at, attempt + 1, :forward})

      _ ->
        plan
    end
  end

  @doc "Puts back what showed no progress in time."
  @spec expire(t, integer) :: {t, [key]}
  def expire(plan, now) do
    late = for {key, {request, deadline, _}} <- plan.active, deadline <= now, do: {key, request}
    plan = Enum.reduce(late, plan, fn {key, request}, plan -> failed(plan, key, request, now) end)
    {plan, Enum.map(late, &elem(&1, 0))}
  end

  @doc "Nothing of this incarnation is wanted any more."
  @spec forget(t, binary, non_neg_integer) :: t
  def forget(plan, shield, epoch), do: reject(plan, &match?({_, ^shield, ^epoch}, &1))

  @doc "Nothing is wanted any more of the keys for which `fun` says so."
  @spec reject(t, (key -> boolean)) :: t
  def reject(plan, fun) do
    drop = fn map -> Map.reject(map, fn {key, _} -> fun.(key) end) end

    %{
      plan
      | waiting: drop.(plan.waiting),
        active: drop.(plan.active),
        since: drop.(plan.since)
    }
  end

  defp enqueue(plan, key, wish) do
    order = if is_map_key(plan.waiting, key), do: plan.order, else: :queue.in(key, plan.order)
    %{plan | waiting: Map.put(plan.waiting, key, wish), order: order}
  end
end
