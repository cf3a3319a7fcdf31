defmodule Brain.Repairs do
  @moduledoc """
  Fetches snapshots for all shards, a few at once. The rules are in `Brain.Repairs.Plan`.

  A shard says what it wants and how its pages come; this process says when to begin.
  """
  use GenServer

  alias Brain.{Metrics, Shard}
  alias Brain.Repairs.Plan

  @type reason :: :gap | :overflow | :lag | :digest | :ahead | :dirty | :malformed | :cold
  @jitter_ms 200
  @tick_ms 100

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "A shard wants a snapshot."
  @spec want(Plan.key(), reason) :: :ok
  def want(key, reason), do: GenServer.cast(__MODULE__, {:want, key, reason})

  @doc "How a snapshot goes."
  @spec report(Plan.key(), pos_integer, :progress | :done | :failed) :: :ok
  def report(key, request, how), do: GenServer.cast(__MODULE__, {how, key, request})

  @doc "An incarnation is hidden or gone."
  @spec forget(binary, non_neg_integer) :: :ok
  def forget(shield, epoch), do: GenServer.cast(__MODULE__, {:forget, shield, epoch})

  @doc "Whether all that was wanted before `time` has come. No answer is a no."
  @spec settled?(integer) :: boolean
  def settled?(time) do
    GenServer.call(__MODULE__, {:settled?, time})
  catch
    :exit, _ -> false
  end

  @impl true
  def init(opts) do
    config = Keyword.fetch!(opts, :config)
    # What an earlier one had begun, nobody would ever end.
    for index <- 0..(config.shards - 1), do: Shard.abort_all(index)
    Process.send_after(self(), :tick, @tick_ms)
    {:ok, %{config: config, plan: Plan.new(config.repairs, &:rand.uniform/1)}}
  end

  @impl true
  def handle_call({:settled?, time}, _, state) do
    {:reply, Plan.settled?(state.plan, time), state}
  end

  @impl true
  def handle_cast({:want, key, reason}, state) do
    jitter = if reason in [:cold, :dirty, :gap], do: 0, else: @jitter_ms
    direction = if reason == :ahead, do: :back, else: :forward

    case Plan.want(state.plan, key, direction, now(), jitter) do
      {:new, plan} ->
        Metrics.add({:syncs, reason}, 1)
        {:noreply, start(%{state | plan: plan})}

      {:known, _} ->
        {:noreply, state}

      {:full, _} ->
        Metrics.add(:dropped, 1)
        {:noreply, state}
    end
  end

  def handle_cast({:progress, key, request}, state) do
    {:noreply, %{state | plan: Plan.progress(state.plan, key, request, now())}}
  end

  def handle_cast({:done, key, request}, state) do
    {:noreply, start(%{state | plan: Plan.done(state.plan, key, request)})}
  end

  def handle_cast({:failed, key, request}, state) do
    {:noreply, start(%{state | plan: Plan.failed(state.plan, key, request, now())})}
  end

  def handle_cast({:forget, shield, epoch}, state) do
    {:noreply, start(%{state | plan: Plan.forget(state.plan, shield, epoch)})}
  end

  @impl true
  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick_ms)
    {plan, late} = Plan.expire(state.plan, now())
    for {account, _, _} = key <- late, do: Shard.abort(shard(state, account), key)
    {:noreply, start(%{state | plan: plan})}
  end

  defp start(state) do
    {plan, started} = Plan.start(state.plan, now())

    for {{account, _, _} = key, request, direction} <- started do
      Shard.fetch(shard(state, account), key, request, direction)
    end

    %{state | plan: plan}
  end

  defp shard(state, account), do: Shard.of(account, state.config.shards)
  defp now, do: System.monotonic_time(:millisecond)
end
